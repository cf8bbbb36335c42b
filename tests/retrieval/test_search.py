"""Search through a real memory: by words, by meaning, with pulls that never exclude and filters that do."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from memory_mcp.errors import EmbedderError
from memory_mcp.memory import Memory
from memory_mcp.records.base import Json
from memory_mcp.records.episode import Context, EpisodeDraft
from memory_mcp.retrieval.embedders.minilm import MiniLMEmbedder
from memory_mcp.retrieval.lexical import Filter
from memory_mcp.retrieval.search import Query
from memory_mcp.storage.session import Session
from tests.conftest import PATIENCE, ManualClock, Open
from tests.learning.play import live, start

DAY = 86_400


async def asked(memory: Memory, text: str, **query: Any) -> list[Json]:
    """The episodes that answer a question."""
    namespace = query.pop("namespace", "default")
    answer = await memory.recall.query(Query(text=text, namespace=namespace, **query))
    return list(answer["episodes"])


async def tasks(memory: Memory, text: str, **query: Any) -> list[str]:
    return [episode["task"] for episode in await asked(memory, text, **query)]


@pytest.fixture
async def meaning(open_memory: Open) -> Memory:
    """A memory with the real model."""
    memory = await open_memory(embedder=MiniLMEmbedder)
    assert await memory.semantic.loaded(PATIENCE)
    return memory


async def test_an_episode_is_found_by_its_words_as_soon_as_it_is_acknowledged(open_memory: Open) -> None:
    memory = await open_memory()
    for word in ("kraken", "basilisk", "chimera"):
        begun = await start(memory, f"Feed the {word} of the aquarium")
        [hit] = await asked(memory, f"who fed that {word}?")
        assert hit["episode_id"] == begun["episode_id"]
        assert hit["status"] == "open"


async def test_a_word_that_only_a_step_said_finds_the_episode_and_names_the_step(open_memory: Open) -> None:
    memory = await open_memory()
    found = await live(
        memory, "deploy the shop", "build", ("push", "TLSError: certificate of registry-seven expired"), "renew"
    )
    await live(memory, "deploy the blog", "build", "push")
    [hit] = await asked(memory, "What about the expired certificate?")
    assert hit["episode_id"] == found
    assert hit["matched_steps"] == [2]


async def test_an_episode_is_found_by_meaning_within_a_second(meaning: Memory) -> None:
    await live(meaning, "Repair the sign-in form: correct passwords are turned away")
    await live(meaning, "Bake bread for the summer party")
    await live(meaning, "Translate the annual report into French")

    async def found() -> Json:
        while True:
            hits = await asked(meaning, "users cannot authenticate", limit=1)
            if hits:
                return hits[0]
            await asyncio.sleep(0)

    # the promise of the README; the model itself takes some milliseconds
    hit = await asyncio.wait_for(found(), 1.0)
    assert hit["task"].startswith("Repair the sign-in form")
    assert "words" not in hit["why"]
    assert hit["why"]["similarity"] > 0.15


async def test_every_vector_carries_the_id_of_its_model_and_only_its_own_are_compared(
    open_memory: Open, settings: Any
) -> None:
    first = await open_memory(embedder=lambda: Letters("letters-1"))
    await first.semantic.loaded(PATIENCE)
    await live(first, "aaaa bbbb")
    await first.settle()
    await first.close()
    second = await open_memory(embedder=lambda: Letters("letters-2", dimensions=5))
    await second.semantic.loaded(PATIENCE)
    await live(second, "cccc dddd")
    await second.settle()

    def models(session: Session) -> list[tuple[str, int, int]]:
        return session.all("SELECT model_id, length(vector), count(*) FROM vectors GROUP BY 1, 2 ORDER BY 1")

    # each model has embedded both tasks, in single-precision halves of its own width
    kept = await second.store.read(models)
    assert [(name, size) for name, size, _ in kept] == [("letters-1", 2 * 26), ("letters-2", 2 * 5)]
    assert kept[0][2] < kept[1][2]
    assert (await tasks(second, "aaaa"))[0] == "aaaa bbbb"


class Letters:
    """An embedding model that counts letters: small, and known by heart."""

    def __init__(self, model_id: str, dimensions: int = 26) -> None:
        self.model_id, self.dimensions = model_id, dimensions

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        counts = np.zeros((len(texts), self.dimensions), np.float32)
        for row, text in enumerate(texts):
            for letter in text.lower():
                counts[row, ord(letter) % self.dimensions] += 1
        counts[:, 0] += 1e-3
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


class Broken(Letters):
    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        raise EmbedderError("out of order")


@pytest.mark.parametrize("embedder", [lambda: None, lambda: Broken("broken"), lambda: 1 / 0])
async def test_without_a_model_words_find_what_they_can_and_the_answer_says_so(
    open_memory: Open, embedder: Any
) -> None:
    memory = await open_memory(embedder=embedder)
    await memory.semantic.loaded(PATIENCE)
    await live(memory, "feed the kraken")
    answer = await memory.recall.query(Query(text="the kraken", namespace="default"))
    assert [hit["task"] for hit in answer["episodes"]] == ["feed the kraken"]
    assert answer["provenance"]["leg"] == "lexical"


async def test_domain_and_task_type_pull_but_exclude_nothing(open_memory: Open) -> None:
    memory = await open_memory()
    for domain in ("web", "data", "ops"):
        await live(memory, "rotate the keys", domain=domain, task_type="debugging" if domain == "web" else "other")
    for domain in ("web", "data"):
        hits = await asked(memory, "rotate the keys", domain=domain)
        assert hits[0]["domain"] == domain
        assert len(hits) == 3
    assert len(await asked(memory, "rotate the keys", task_type="debugging")) == 3


async def test_a_better_answer_from_elsewhere_stands_before_a_worse_one_from_here(open_memory: Open) -> None:
    memory = await open_memory()
    for other in ("paint the fence", "rotate the logs", "count the sheep", "rotate the crops yearly"):
        await live(memory, other, domain="web")
    await live(memory, "rotate the signing keys of the gateway", domain="security")
    [first, *_] = await tasks(memory, "how do I rotate signing keys of a gateway", domain="web")
    assert first == "rotate the signing keys of the gateway"


async def test_of_equal_answers_the_success_and_the_recent_one_stand_first(
    open_memory: Open, clock: ManualClock
) -> None:
    memory = await open_memory(clock=clock)
    for name, outcome in (("old", "failure"), ("newer", "success"), ("newest", "failure")):
        await live(memory, "rotate the keys", outcome=outcome, task_type="other", domain=name)
        clock.advance(60 * DAY)
    order = [hit["domain"] for hit in await asked(memory, "rotate the keys")]
    assert order == ["newer", "newest", "old"]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (Filter(domain="web"), {"a", "b"}),
        (Filter(outcome="failure"), {"b"}),
        (Filter(status="open"), {"d"}),
        (Filter(language="rust"), {"c"}),
        (Filter(framework="axum"), {"c"}),
        (Filter(tags=("urgent",)), {"a", "c"}),
        (Filter(tags=("urgent", "night")), {"c"}),
        (Filter(task_type="testing"), {"a"}),
        (Filter(domain="web", outcome="success"), {"a"}),
        (Filter(domain="nowhere"), set()),
    ],
)
async def test_a_filter_excludes_what_it_names(open_memory: Open, where: Filter, expected: set[str]) -> None:
    memory = await open_memory()
    rust = Context(language="rust", framework="axum", tags=["urgent", "night"])
    made = {
        "a": await live(memory, "rotate keys", domain="web", task_type="testing", context=Context(tags=["urgent"])),
        "b": await live(memory, "rotate keys", domain="web", outcome="failure"),
        "c": await live(memory, "rotate keys", context=rust),
        "d": (await start(memory, "rotate keys"))["episode_id"],
    }
    found = {hit["episode_id"] for hit in await asked(memory, "rotate keys", where=where)}
    assert found == {made[name] for name in expected}


async def test_a_rare_match_behind_hundreds_that_a_filter_excludes_is_found(open_memory: Open) -> None:
    memory = await open_memory()
    wanted = await live(
        memory, "rotate the keys, and much more that makes this text long and its score low", domain="x"
    )
    await asyncio.gather(*(start(memory, "rotate keys", domain="y") for _ in range(320)))
    [hit] = await asked(memory, "rotate keys", where=Filter(domain="x"))
    assert hit["episode_id"] == wanted


async def test_namespaces_are_walls(open_memory: Open) -> None:
    memory = await open_memory()
    await memory.episodes.create(EpisodeDraft(task_description="rotate the keys"), "one", token_budget=0)
    assert await tasks(memory, "rotate keys", namespace="one") == ["rotate the keys"]
    assert await tasks(memory, "rotate keys", namespace="other") == []


QUESTIONS = [
    'AND OR NOT NEAR("keys" 5) rotate*',
    "keys:rotate ^ {title} - + * ( ) \" '",
    "rotate; DROP TABLE episodes; --",
    "Wie drehe ich die keys? 東京 🎉 Ключи",
    "rotate keys " + "and so on and on " * 600,
    "ROTATING KEY",
]


@pytest.mark.parametrize("question", QUESTIONS)
async def test_a_question_of_any_form_and_length_is_understood(open_memory: Open, question: str) -> None:
    memory = await open_memory()
    await live(memory, "rotate the keys")
    await live(memory, "paint the fence")
    assert (await tasks(memory, question))[0] == "rotate the keys"


@pytest.mark.parametrize("question", ["", "   ", "???", "\u200b", "zzzzqqqq"])
async def test_a_question_that_nothing_answers_gets_an_empty_answer(open_memory: Open, question: str) -> None:
    memory = await open_memory()
    await live(memory, "rotate the keys")
    answer = await memory.recall.query(Query(text=question, namespace="default"))
    assert (answer["episodes"], answer["count"]) == ([], 0)


async def test_words_of_other_scripts_find_what_they_name(open_memory: Open) -> None:
    memory = await open_memory()
    for task in ("Обновить сертификат сервера", "修复登录页面的错误", "Füße der Möbel ölen"):
        await live(memory, task)
    assert await tasks(memory, "сертификат") == ["Обновить сертификат сервера"]
    assert await tasks(memory, "登录页面") == ["修复登录页面的错误"]
    assert await tasks(memory, "Möbel") == ["Füße der Möbel ölen"]


@pytest.fixture
async def small(open_memory: Open) -> Memory:
    memory = await open_memory(embedder=lambda: Letters("letters"))
    await memory.semantic.loaded(PATIENCE)
    await live(memory, "rotate the keys", "open", ("turn", "ValueError: no key"))
    await memory.settle()
    return memory


@given(text=st.text(max_size=200))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_no_text_makes_a_search_fail(small: Memory, text: str) -> None:
    for hit in await asked(small, text):
        assert hit["task"] == "rotate the keys"
