"""An episode as it will be once its pending commands are carried out: what readers see while the store is out.

The counterpart of `operations`, on one episode in memory instead of on rows; a test holds the two together.
"""

from __future__ import annotations

from memory_mcp.records.base import MAX_STEPS, Json
from memory_mcp.records.ledger import Command
from memory_mcp.storage.operations import closed_by, in_order, new_episode, numbered_step, shown_receipts


def fold(episode: Json | None, command: Command) -> Json | None:
    """The episode after a pending command; unchanged where the command does not fit, as the replay will find too."""
    payload = command.payload
    if command.operation in ("episode.create", "episode.import"):
        return _created(payload, command.at) if episode is None else episode
    if episode is None or episode["status"] != "open":
        return episode
    if command.operation == "episode.add_steps":
        return _stepped(episode, payload, command.at)
    if command.operation == "episode.complete":
        return {**episode, **closed_by(episode, payload["outcome"], command.at)}
    if command.operation == "memory.show":
        return _shown(episode, payload["receipts"], command.at)
    return episode


def concerns(command: Command, namespace: str, episode_id: str) -> bool:
    """Whether a command writes to this episode."""
    named = command.payload.get("episode_id") or command.payload.get("episode", {}).get("episode_id")
    return command.namespace == namespace and named == episode_id


def _created(payload: Json, at: int) -> Json:
    episode = {**new_episode(payload["episode"]), "version": 0, "steps": [], "receipts": []}
    episode = _with_steps(episode, payload.get("steps", []), at)
    if payload.get("outcome") is not None:
        episode.update(closed_by(episode, payload["outcome"], payload["ended_at"]))
    return _shown(episode, payload.get("receipts", []), at)


def _stepped(episode: Json, payload: Json, at: int) -> Json:
    if payload["steps"] and any(
        step == numbered_step(payload["steps"][0], step["step_number"], at) for step in episode["steps"]
    ):
        # its commit only seemed to fail: no other command takes the same step in the same microsecond
        return episode
    count = len(episode["steps"])
    expected = payload.get("step_number", 0)
    if (expected and expected != count + 1) or count + len(payload["steps"]) > MAX_STEPS:
        return episode
    return _shown(_with_steps(episode, payload["steps"], at), payload.get("receipts", []), at)


def _with_steps(episode: Json, drafts: list[Json], at: int) -> Json:
    first = len(episode["steps"]) + 1
    new = [numbered_step(draft, number, at) for number, draft in enumerate(drafts, first)]
    return {**episode, "steps": [*episode["steps"], *new]}


def _shown(episode: Json, receipts: list[Json], at: int) -> Json:
    # the first showing after a step counts
    by_key = {_key(receipt): receipt for receipt in reversed([*episode["receipts"], *shown_receipts(receipts, at)])}
    return {**episode, "receipts": in_order(list(by_key.values()))}


def _key(receipt: Json) -> tuple[int, str, str]:
    return receipt["shown_after"], receipt["memory_kind"], receipt["memory_id"]
