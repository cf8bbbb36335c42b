"""Both generations of the customer service benchmark, on their real results and on small ones."""

from collections import Counter

import pytest

TASK = {"user_id": "u1", "instruction": "You want a refund.", "actions": [], "outputs": []}


def said(role, content, **fields):
    return {"role": role, "content": content} | fields


def called(key, tool, arguments):
    return said("assistant", None, tool_calls=[{"id": key, "function": {"name": tool, "arguments": arguments}}])


def answered(key, content):
    return said("tool", content, tool_call_id=key, name="any")


def trajectory(*messages, reward=1.0, **fields):
    info = {"task": TASK, "reward_info": None}
    return {"task_id": 7, "trial": 2, "reward": reward, "info": info, "traj": list(messages)} | fields


def simulation(*messages, reward=1.0, **fields):
    rewarded = {"reward": reward, "action_checks": None, "reward_basis": ["DB"]}
    return {
        "id": "s1",
        "task_id": "t1",
        "trial": 0,
        "termination_reason": "user_stop",
        "start_time": "2025-08-01T10:00:00.000001",
        "end_time": "2025-08-01T10:01:00",
        "reward_info": rewarded,
        "messages": list(messages),
    } | fields


def results(*simulations, **fields):
    instructions = {"domain": "retail", "reason_for_call": "Refund it.", "task_instructions": "Be brief."}
    task = {"id": "t1", "user_scenario": {"instructions": instructions}, "ticket": "A refund is wanted."}
    info = {"environment_info": {"domain_name": "airline"}, "agent_info": {"llm": "model-1"}}
    return {"info": info, "tasks": [task], "simulations": list(simulations)} | fields


def test_all_150_trajectories_of_tau_bench_are_imported(shared_data, imported) -> None:
    episodes, problems = imported("tau-bench", shared_data / "tau_bench" / "gpt-4o-airline.json")
    steps = [step for episode in episodes for step in episode.steps]
    assert problems == []
    assert len(episodes) == len({episode.source_id for episode in episodes}) == 150
    assert Counter(episode.metadata["trial"] for episode in episodes) == {0: 50, 1: 50, 2: 50}
    assert len({episode.metadata["task_id"] for episode in episodes}) == 50
    assert Counter(episode.outcome.type for episode in episodes) == {"success": 63, "failure": 87}
    assert sum(episode.outcome.score for episode in episodes) == 63
    assert len(steps) == 862
    assert sum(not step.result.ok for step in steps) == 54
    assert len({step.tool for step in steps}) == 14
    assert {episode.domain for episode in episodes} == {"airline"}
    assert not any("calls_without_result" in episode.metadata for episode in episodes)


def test_a_second_import_of_tau_bench_gives_the_same_episodes(shared_data, imported) -> None:
    path = shared_data / "tau_bench" / "gpt-4o-airline.json"
    assert imported("tau-bench", path) == imported("tau-bench", path)


@pytest.mark.parametrize(
    ("name", "domain", "episodes", "steps", "errors", "successes", "by_user"),
    [
        ("gpt-4.1_airline_20.json", "airline", 20, 148, 1, 10, 0),
        ("gpt-4.1_retail_40.json", "retail", 40, 299, 12, 34, 0),
        ("gpt-4.1_telecom_40.json", "telecom", 40, 689, 0, 18, 482),
        ("gpt-4.1_telecom-nouser_40.json", "telecom", 40, 626, 2, 20, 0),
    ],
)
def test_all_simulations_of_tau2_bench_are_imported(
    name, domain, episodes, steps, errors, successes, by_user, shared_data, imported
) -> None:
    found, problems = imported("tau2-bench", shared_data / "tau2_bench" / name)
    all_steps = [step for episode in found for step in episode.steps]
    assert problems == []
    assert len(found) == len({episode.source_id for episode in found}) == episodes
    assert {episode.domain for episode in found} == {domain}
    assert {episode.actor for episode in found} == {"gpt-4.1"}
    assert len(all_steps) == steps
    assert sum(not step.result.ok for step in all_steps) == errors
    assert Counter(episode.outcome.type for episode in found) == {"success": successes, "failure": episodes - successes}
    assert sum(step.action.startswith("user: ") for step in all_steps) == by_user
    assert all(step.at is not None and step.latency_ms is not None for step in all_steps)
    assert all(episode.ended_at > episode.started_at for episode in found)


def test_a_call_is_joined_to_its_answer_even_where_ids_come_twice(import_value) -> None:
    (episode,), _ = import_value(
        "tau-bench",
        [
            trajectory(
                said("system", "policy"),
                said("user", "Hello"),
                called("x", "find", '{"id": 1}'),
                answered("x", "first"),
                said("assistant", "One moment."),
                called("x", "find", '{"id": 2}'),
                answered("x", "Error: not found"),
            )
        ],
    )
    assert [(step.tool, step.parameters, step.result.type) for step in episode.steps] == [
        ("find", {"id": 1}, "success"),
        ("find", {"id": 2}, "error"),
    ]
    assert [step.result.observation for step in episode.steps] == ["first", "Error: not found"]
    assert episode.steps[0].action == "find(id=1)"
    assert episode.metadata == {"task_id": 7, "trial": 2, "user_id": "u1", "first_user_message": "Hello"}


def test_calls_that_wait_under_one_id_are_answered_in_order(import_value) -> None:
    both = called("x", "one", "{}")
    both["tool_calls"] += called("x", "two", "{}")["tool_calls"]
    (episode,), _ = import_value("tau-bench", [trajectory(both, answered("x", "1"), answered("x", "2"))])
    assert [(step.tool, step.result.output) for step in episode.steps] == [("one", "1"), ("two", "2")]


def test_several_calls_of_one_turn_keep_their_order(import_value) -> None:
    both = called("a", "one", "{}")
    both["tool_calls"] += called("b", "two", "{}")["tool_calls"]
    (episode,), _ = import_value("tau-bench", [trajectory(both, answered("b", "2"), answered("a", "1"))])
    assert [(step.tool, step.result.output) for step in episode.steps] == [("one", "1"), ("two", "2")]


def test_the_older_function_calls_are_steps_too(import_value) -> None:
    old = said("assistant", None, function_call={"name": "find", "arguments": '{"id": 1}'})
    (episode,), _ = import_value("tau-bench", [trajectory(old, said("function", "found", name="find"))])
    assert [(step.tool, step.parameters, step.result.output) for step in episode.steps] == [
        ("find", {"id": 1}, "found")
    ]


def test_a_call_without_an_answer_is_counted_and_is_no_step(import_value) -> None:
    (episode,), _ = import_value("tau-bench", [trajectory(called("a", "find", "{}"), answered("other", "stray"))])
    assert episode.steps == []
    assert episode.metadata["calls_without_result"] == 1


@pytest.mark.parametrize("arguments", ["{broken", "[1]", "7"])
def test_arguments_that_are_no_object_are_kept_as_the_agent_wrote_them(arguments, import_value) -> None:
    (episode,), _ = import_value("tau-bench", [trajectory(called("a", "find", arguments), answered("a", "Error: bad"))])
    assert episode.steps[0].parameters == {"arguments": arguments}


@pytest.mark.parametrize(
    ("name", "domain"), [("o1-Retail.json", "retail"), ("airline.json", "airline"), ("x.json", "customer_service")]
)
def test_the_domain_of_tau_bench_comes_from_the_name_of_the_file(name, domain, import_value) -> None:
    (episode,), _ = import_value("tau-bench", [trajectory()], name)
    assert episode.domain == domain


def test_the_identity_of_a_trajectory_is_its_content_and_not_its_file(import_value) -> None:
    one, _ = import_value("tau-bench", [trajectory(said("user", "Hi"))], "a.json")
    two, _ = import_value("tau-bench", [trajectory(said("user", "Ho")), trajectory(said("user", "Hi"))], "retail.json")
    assert one[0].source_id == two[1].source_id != two[0].source_id
    assert one[0].source_id.startswith("tau-bench:")


def test_cuts_are_never_silent(import_value) -> None:
    long = trajectory(said("user", "u" * 10_001), called("a", "find", "{}"), answered("a", "o" * 10_001))
    long["info"] = {"task": TASK | {"instruction": "i" * 10_001}}
    (episode,), _ = import_value("tau-bench", [long])
    assert len(episode.steps[0].result.output) == 10_000
    assert episode.steps[0].result.truncated
    assert episode.metadata["first_user_message_truncated"]
    assert episode.metadata["task_description_truncated"]


@pytest.mark.parametrize(("reward", "kind"), [(1, "success"), (0, "failure"), (0.25, "partial_success")])
def test_the_reward_decides_the_outcome(reward, kind, import_value) -> None:
    (old,), _ = import_value("tau-bench", [trajectory(reward=reward)])
    (new,), _ = import_value("tau2-bench", results(simulation(reward=reward)))
    for episode in (old, new):
        assert episode.outcome.type == kind
        assert episode.outcome.score == reward
        assert (episode.outcome.reason != "") == (kind == "failure")


@pytest.mark.parametrize(
    "item",
    [
        7,
        None,
        {},
        trajectory(reward=None),
        trajectory(reward=True),
        trajectory(reward=2),
        trajectory(reward=float("nan")),
        trajectory(traj="none"),
        trajectory(info=None),
        trajectory(info={"task": {"instruction": 3}}),
        trajectory(called("a", "", "{}"), answered("a", "x")),
        trajectory(called("a", None, "{}"), answered("a", "x")),
        trajectory(called("a", "f", '{"n": NaN}'), answered("a", "x")),
        trajectory(called("a", "f", "{}"), answered("a", "nul \x00")),
        trajectory(called("a", "f", '{"k": "\ud800"}'), answered("a", "x")),
    ],
)
def test_a_bad_trajectory_is_a_problem_and_the_others_are_read(item, import_value) -> None:
    episodes, (problem,) = import_value("tau-bench", [trajectory(), item, trajectory()])
    assert len(episodes) == 2
    assert problem.where.startswith("trajectory 2")
    assert problem.error.message


def test_a_problem_names_task_and_trial(import_value) -> None:
    _, (problem,) = import_value("tau-bench", [trajectory(reward=None)])
    assert problem.where == "trajectory 1 (task 7, trial 2)"


def test_a_simulation_keeps_times_errors_and_who_called(import_value) -> None:
    def call(key, requestor, at):
        made = {"id": key, "name": "toggle", "arguments": {"on": True}, "requestor": requestor}
        usage = {"prompt_tokens": 100, "completion_tokens": 20}
        return said(requestor, None, tool_calls=[made], timestamp=f"2025-08-01T10:00:0{at}", usage=usage)

    def answer(key, error, at):
        return said("tool", "text", id=key, error=error, timestamp=f"2025-08-01T10:00:0{at}")

    (episode,), _ = import_value(
        "tau2-bench",
        results(
            simulation(
                call("a", "assistant", 1), answer("a", False, "1.5"), call("b", "user", 2), answer("b", True, "2.25")
            )
        ),
    )
    agent, user = episode.steps
    assert (agent.action, agent.result.type, agent.latency_ms, agent.tokens_used) == (
        "toggle(on=true)",
        "success",
        500,
        120,
    )
    assert (user.action, user.result.type, user.latency_ms, user.tokens_used) == (
        "user: toggle(on=true)",
        "error",
        250,
        None,
    )
    assert user.parameters == {"on": True}
    assert user.at - agent.at == 1_000_000
    assert episode.ended_at - episode.started_at == 59_999_999
    assert (episode.domain, episode.actor, episode.source_id) == ("airline", "model-1", "tau2-bench:s1")
    assert episode.task_description == "Refund it.\nBe brief."


def test_the_checked_actions_say_what_was_reached_and_what_was_not(import_value) -> None:
    checks = [
        {"action": {"name": "refund", "arguments": {"id": 1}}, "action_match": True},
        {"action": {"name": "close", "arguments": {}}, "action_match": False},
    ]
    item = simulation(reward_info={"reward": 0.0, "action_checks": checks}, termination_reason="max_steps")
    (episode,), _ = import_value("tau2-bench", results(item))
    assert episode.outcome.completed == ["refund(id=1)"]
    assert episode.outcome.failed == ["close()"]
    assert "max_steps" in episode.outcome.reason


def test_where_no_customer_took_part_the_ticket_is_the_task(import_value) -> None:
    (episode,), _ = import_value(
        "tau2-bench", results(simulation(), info={"user_info": {"implementation": "dummy_user"}})
    )
    assert episode.task_description == "A refund is wanted."
    assert episode.domain == "retail"


def test_a_simulation_without_a_reward_is_no_evidence(import_value) -> None:
    (episode,), _ = import_value("tau2-bench", results(simulation(reward_info=None)))
    assert episode.outcome.type == "abstained"
    assert "user_stop" in episode.outcome.reason


@pytest.mark.parametrize(
    "item", [None, {}, simulation(task_id="unknown"), simulation(messages={}), simulation(reward_info={"reward": "1"})]
)
def test_a_bad_simulation_is_a_problem_and_the_others_are_read(item, import_value) -> None:
    episodes, (problem,) = import_value("tau2-bench", results(simulation(), item))
    assert len(episodes) == 1
    assert problem.where.startswith("simulation 2")
