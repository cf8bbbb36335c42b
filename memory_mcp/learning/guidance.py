"""Guidance: what earlier episodes say about a task at its start, and about a step that has just failed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from memory_mcp.learning import playbook as playbooks
from memory_mcp.learning.evidence import beta_interval
from memory_mcp.learning.forecast import Precedent, forecast
from memory_mcp.learning.history import History
from memory_mcp.learning.mining import identify
from memory_mcp.learning.patterns import Book, Pattern, PatternBooks
from memory_mcp.learning.playbook import Near
from memory_mcp.learning.trace import choice, error_of
from memory_mcp.learning.wording import describe_choice, first_line, path_of
from memory_mcp.records.base import Json, dumps
from memory_mcp.records.episode import Episode, EpisodeDraft, StepDraft, episode_from
from memory_mcp.retrieval.lexical import Filter
from memory_mcp.retrieval.search import Hit, Query, Search
from memory_mcp.retrieval.text import content_terms
from memory_mcp.storage import pattern_queries
from memory_mcp.storage.store import Store

NEIGHBOURS = 24
READ = 12
MAX_LESSONS = 3
MAX_ANSWERED = 3
MAX_PITFALLS = 3
# below this score a way out is no advice: what worked only in tasks of another kind misleads more often than it helps
MIN_SCORE = 0.1
# a way out from tasks of any kind is advice when it worked in most attempts, at the low end of the interval
MIN_EVERYWHERE = 0.5
# one perfect precedent as close as this weighs as much as not knowing
_UNSURE = 0.5
# an episode is a precedent from this cosine similarity on (or, without a model, this share of common words)
NEAR_SIMILARITY = 0.2
NEAR_WORDS = 0.3
_REMEMBERED = 512
_SOURCES = 20


@dataclass(slots=True)
class Start:
    """Guidance at the start of a task, and the receipts for it."""

    precedents: list[Json] = field(default_factory=list)
    playbook: Json | None = None
    pitfalls: list[Json] = field(default_factory=list)
    forecast: Json = field(default_factory=dict)
    receipts: list[Json] = field(default_factory=list)
    near: dict[str, float] = field(default_factory=dict)
    degraded: bool = False


class Guidance:
    """Guidance from one store."""

    def __init__(self, store: Store, search: Search, books: PatternBooks) -> None:
        self._store = store
        self._search = search
        self._books = books
        self._near: OrderedDict[str, dict[str, float]] = OrderedDict()
        store.on_replaced(self._near.clear)

    async def at_start(self, draft: EpisodeDraft, namespace: str, *, max_steps: int = playbooks.MAX_STEPS) -> Start:
        """Precedents (a success, and a failure that contrasts), playbook, pitfalls and forecast for a task.

        Raises:
            StorageUnavailableError: the store is out of order.
        """
        near, degraded = await self._neighbours(draft, namespace)
        history = await self._store.read(lambda session: History.rates(session, namespace))
        book = await self._books.book(namespace)
        pitfalls = _pitfalls(book, draft.domain)
        base = history.base_rate(draft.domain, draft.task_type)
        playbook = playbooks.write(near, pitfalls, base[0] if base else None, max_steps)
        shown = [_best(near, succeeded=True), _best(near, succeeded=False)]
        precedents = [precedent for precedent in shown if precedent is not None]
        start = Start(
            precedents=[_precedent(precedent) for precedent in precedents],
            playbook=playbook,
            pitfalls=[playbooks.pitfall(pattern) for pattern in pitfalls],
            forecast=forecast(
                [
                    Precedent(item.relevance, item.succeeded, len(item.episode.steps), item.episode.duration_seconds)
                    for item in near
                    if item.succeeded or item.failed
                ],
                history,
                draft.domain,
                draft.task_type,
            ),
            near={item.episode.episode_id: item.relevance for item in near},
            degraded=degraded,
        )
        start.receipts = _receipts(start, precedents, pitfalls)
        return start

    def remember(self, episode_id: str, near: dict[str, float]) -> None:
        """Keep which episodes are near an open one, for the lessons on its steps."""
        self._near[episode_id] = near
        self._near.move_to_end(episode_id)
        if len(self._near) > _REMEMBERED:
            self._near.popitem(last=False)

    async def after_errors(
        self, episode: Episode, failed: Sequence[tuple[int, StepDraft]]
    ) -> tuple[list[Json], list[Json]]:
        """`(lessons, receipts)` for steps that failed, given as `(step_number, step)`.

        A lesson names a step that led out of this error before; those from episodes near this one come first. Of many
        failures at once, the last of each kind are answered.
        """
        lessons: list[Json] = []
        receipts: list[Json] = []
        last_of = {dumps(error_of(draft)): (number, draft) for number, draft in failed}
        for number, draft in sorted(last_of.values(), key=lambda item: item[0])[-MAX_ANSWERED:]:
            found = await self._lessons(episode, draft)
            lessons += [{"after_step": number, **lesson} for lesson in found]
            receipts += [
                {
                    "shown_after": number,
                    "memory_kind": "pattern",
                    "memory_id": lesson["pattern_id"],
                    "advice": {"choice": lesson["advice"]},
                }
                for lesson in found
            ]
        return lessons, receipts

    async def _lessons(self, episode: Episode, failed: StepDraft) -> list[Json]:
        book = await self._books.book(episode.namespace)
        error = error_of(failed)
        known, exact = _recoveries(book, error)
        in_vain = _in_vain(episode, failed, error)
        candidates = [pattern for pattern in known if dumps(pattern.body["recovery"]) not in in_vain]
        if not candidates:
            return []
        near = self._near.get(episode.episode_id)
        if near is None:
            near = {
                item.episode.episode_id: item.relevance
                for item in (await self._neighbours(episode, episode.namespace, {episode.episode_id}))[0]
            }
            self.remember(episode.episode_id, near)
        ids = [pattern.pattern_id for pattern in candidates]
        sources = await self._store.read(
            lambda session: pattern_queries.sources(session, episode.namespace, ids, _SOURCES)
        )
        scored = sorted(
            ((_recovery_score(pattern, sources.get(pattern.pattern_id, []), near), pattern) for pattern in candidates),
            key=lambda pair: (-pair[0], pair[1].pattern_id),
        )
        best: dict[str, Pattern] = {}
        for score, pattern in scored:
            if score >= MIN_SCORE:
                # of similar errors, the same way out may be known several times
                best.setdefault(dumps(pattern.body["recovery"]), pattern)
        return [
            _lesson(pattern, sources.get(pattern.pattern_id, []), near, exact)
            for pattern in list(best.values())[:MAX_LESSONS]
        ]

    async def _neighbours(
        self, draft: EpisodeDraft, namespace: str, exclude: set[str] | None = None
    ) -> tuple[list[Near], bool]:
        query = Query(
            text=draft.task_description,
            namespace=namespace,
            domain=draft.domain,
            task_type=draft.task_type,
            where=Filter(status="completed"),
            limit=NEIGHBOURS,
            exclude=frozenset(exclude or ()),
        )
        found = await self._search.find(query)
        words = set(content_terms(draft.task_description))
        near: list[Near] = []
        for hit in found.hits:
            closeness = _closeness(hit, words)
            if closeness > 0 and len(near) < READ:
                loaded = await self._store.episode(namespace, hit.episode_id)
                if loaded.episode is not None:
                    near.append(Near(episode_from(loaded.episode), closeness))
        return near, found.degraded


def _closeness(hit: Hit, words: set[str]) -> float:
    """How alike two tasks are, in 0..1 and comparable between questions; 0 means no precedent."""
    if hit.similarity is None:
        shared = words & set(content_terms(hit.header["task_description"]))
        alike, floor = len(shared) / max(1, len(words)), NEAR_WORDS
    else:
        alike, floor = hit.similarity, NEAR_SIMILARITY
    return min(1.0, max(0.0, (alike - floor) / (1 - floor)))


def _best(near: list[Near], *, succeeded: bool) -> Near | None:
    return next((item for item in near if (item.succeeded if succeeded else item.failed)), None)


def _precedent(near: Near) -> Json:
    episode = near.episode
    assert episode.outcome is not None
    reflection = episode.reflection or {}
    order = ("improvements", "insights", "successes") if near.failed else ("successes", "improvements", "insights")
    items = [item["text"] for name in order for item in reflection.get(name, [])]
    told: Json = {
        "episode_id": episode.episode_id,
        "task": first_line(episode.task_description),
        "outcome": episode.outcome.type,
        "relevance": round(near.relevance, 3),
    }
    if near.choices:
        told["path"] = path_of(near.choices)
    if items:
        told["lesson"] = items[0]
    return told


def _pitfalls(book: Book, domain: str) -> list[Pattern]:
    """What goes before failure in this domain: proven first, then what is merely suspected often."""
    found = [pattern for pattern in book.pitfalls() if not domain or domain in pattern.known.domains]
    found.sort(key=lambda pattern: (pattern.evidence.posterior_mean - pattern.evidence.base_rate, pattern.pattern_id))
    return found[:MAX_PITFALLS]


def _recoveries(book: Book, error: Json) -> tuple[list[Pattern], bool]:
    """Ways out of an error that worked; of the same error, or else of similar ones of the same tool."""
    known = [
        pattern
        for detail in (True, False)
        for pattern in book.recoveries(identify("group", {"error": error, "detail": detail}))
    ]
    exact = bool(known)
    if not known:
        known = book.similar_recoveries(error)
    worked = [pattern for pattern in known if pattern.resolved and pattern.evidence.verdict != "hurts"]
    detailed = {pattern.body["recovery"]["tool"] for pattern in worked if "parameters" in pattern.body["recovery"]}
    # a tool without its arguments is advice only where no arguments are known
    kept = [
        pattern
        for pattern in worked
        if "parameters" in pattern.body["recovery"] or pattern.body["recovery"]["tool"] not in detailed
    ]
    return kept, exact


def _in_vain(episode: Episode, failed: StepDraft, error: Json) -> set[str]:
    """What this episode need not be told: the call that has just failed, and what it did since this error came up."""
    before = next((at for at, step in enumerate(episode.steps) if not step.result.ok and error_of(step) == error), None)
    tried = [] if before is None else episode.steps[before:]
    return {dumps(choice(step)) for step in [*tried, failed]}


def _recovery_score(pattern: Pattern, sources: list[Json], near: dict[str, float]) -> float:
    """How surely a way out works here: by what it did in episodes like this one, or nearly everywhere."""
    weight = worked = 0.0
    for source in sources:
        closeness = near.get(source["episode_id"], 0.0) ** 2
        weight += closeness
        worked += closeness * source["resolved"] / max(1, source["tried"]) * (1.0 if source["success"] else 0.25)
    here = worked / (weight + _UNSURE)
    _, surely, _ = beta_interval(pattern.resolved, pattern.tried - pattern.resolved, 0.5, 2.0)
    everywhere = surely * pattern.evidence.posterior_mean
    return max(here, everywhere if everywhere >= MIN_EVERYWHERE else 0.0)


def _lesson(pattern: Pattern, sources: list[Json], near: dict[str, float], exact: bool) -> Json:
    recovery = pattern.body["recovery"]
    alike = [source["episode_id"] for source in sources if source["episode_id"] in near and source["resolved"]]
    error = "this" if exact else f"a similar error of {pattern.body['error']['tool']}"
    text = f"{describe_choice(recovery)} led out of {error} in {pattern.resolved} of {pattern.tried} attempts"
    return {
        "pattern_id": pattern.pattern_id,
        "advice": recovery,
        "text": text,
        "resolved": pattern.resolved,
        "tried": pattern.tried,
        "evidence": pattern.evidence.as_dict(),
        "episodes": (alike or [source["episode_id"] for source in sources if source["resolved"]])[:3],
    }


def _receipts(start: Start, precedents: list[Near], pitfalls: list[Pattern]) -> list[Json]:
    receipts: list[Json] = []

    def add(kind: str, memory_id: str, advice: Json) -> None:
        receipts.append({"shown_after": 0, "memory_kind": kind, "memory_id": memory_id, "advice": advice})

    if start.playbook is not None:
        add("episode", start.playbook["source"], playbooks.advice(start.playbook))
    for precedent in precedents:
        if start.playbook is None or precedent.episode.episode_id != start.playbook["source"]:
            add("episode", precedent.episode.episode_id, {})
    for pattern in pitfalls:
        add("pattern", pattern.pattern_id, {"avoid": pattern.body["error"]} if "error" in pattern.body else {})
    return receipts
