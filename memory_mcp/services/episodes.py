"""The life of an episode: created with guidance, recorded step by step, completed with what it taught."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Sequence
from functools import partial
from uuid import NAMESPACE_URL, uuid5

from memory_mcp.clock import Clock, IdFactory, iso
from memory_mcp.errors import EpisodeClosedError, EpisodeExistsError, EpisodeNotFoundError, StorageUnavailableError
from memory_mcp.learning.follower import Learner
from memory_mcp.learning.guidance import Guidance, Start
from memory_mcp.learning.patterns import sentence
from memory_mcp.metrics import Metrics
from memory_mcp.records.base import Json
from memory_mcp.records.episode import (
    Episode,
    EpisodeDraft,
    ImportedEpisode,
    Outcome,
    StepDraft,
    episode_from,
)
from memory_mcp.records.ledger import Command, Written
from memory_mcp.retrieval.budget import check_fields, fit, project, tokens
from memory_mcp.services.history import past_episode
from memory_mcp.storage import pattern_queries, queries
from memory_mcp.storage.store import Loaded, Store

_log = logging.getLogger(__name__)

LEARNING_SECONDS = 5.0
# of the guidance at the start; the rest is for forecast, precedents and pitfalls
_PLAYBOOK_SHARE = 0.7


class EpisodeService:
    """Episodes of one store."""

    def __init__(
        self,
        store: Store,
        guidance: Guidance,
        learner: Learner,
        metrics: Metrics,
        clock: Clock,
        ids: IdFactory,
        actor: str = "",
    ) -> None:
        self._store = store
        self._guidance = guidance
        self._learner = learner
        self._metrics = metrics
        self._clock = clock
        self._ids = ids
        self._actor = actor

    async def create(self, draft: EpisodeDraft, namespace: str, *, actor: str = "", token_budget: int = 800) -> Json:
        """Start an episode; the answer brings what earlier ones teach about it, within a budget of tokens.

        Raises:
            StorageUnavailableError: neither store nor journal could take it.
        """
        start = await self._start(draft, namespace)
        now = self._clock.now()
        episode_id = self._ids.new()
        header = {
            **draft.model_dump(),
            "episode_id": episode_id,
            "namespace": namespace,
            "actor": actor or self._actor,
            "started_at": now,
        }
        shown = _within_budget(start, token_budget)
        receipts = [receipt for receipt in start.receipts if receipt["memory_id"] in _named(shown)]
        written = await self._write("episode.create", namespace, {"episode": header, "receipts": receipts}, actor, now)
        self._guidance.remember(episode_id, start.near)
        answer: Json = {"episode_id": episode_id, "status": "open", "started_at": iso(now), **shown}
        return _marked(answer, pending=written.pending, degraded=start.degraded)

    async def add_steps(
        self, episode_id: str, steps: Sequence[StepDraft], namespace: str, *, step_number: int = 0, actor: str = ""
    ) -> Json:
        """Record steps; for steps that failed the answer brings what led out of such an error before.

        Raises:
            EpisodeNotFoundError, EpisodeClosedError, StepConflictError, TooLargeError: nothing was written.
            StorageUnavailableError: neither store nor journal could take it.
        """
        lessons, receipts = await self._lessons(episode_id, steps, namespace)
        payload = {
            "episode_id": episode_id,
            "steps": [step.model_dump() for step in steps],
            "step_number": step_number,
            "receipts": receipts,
        }
        written = await self._write("episode.add_steps", namespace, payload, actor, self._clock.now())
        answer: Json = {"episode_id": episode_id, "recorded": len(steps)}
        if not written.pending:
            answer.update(step_numbers=written.result["step_numbers"], step_count=written.result["step_count"])
        if lessons:
            answer["lessons"] = lessons
        return _marked(answer, pending=written.pending)

    async def complete(self, episode_id: str, outcome: Outcome, namespace: str, *, actor: str = "") -> Json:
        """End an episode; the answer brings reward, reflection and what was learned from it.

        Raises:
            EpisodeNotFoundError, EpisodeClosedError: nothing was written.
            StorageUnavailableError: neither store nor journal could take it.
        """
        payload = {"episode_id": episode_id, "outcome": outcome.model_dump()}
        written = await self._write("episode.complete", namespace, payload, actor, self._clock.now())
        answer: Json = {"episode_id": episode_id, "status": "completed", "outcome": outcome.type}
        if written.pending:
            return _marked(answer, pending=True)
        try:
            await asyncio.wait_for(self._learner.catch_up(written.position), LEARNING_SECONDS)
            # from the store, because the cache may be behind a learner in another process
            found, patterns, position = await self._store.read(
                lambda session: (
                    queries.episode(session, namespace, episode_id),
                    pattern_queries.learned_from(session, namespace, episode_id),
                    queries.head_position(session),
                )
            )
            self._store.seen(position)
        except (StorageUnavailableError, TimeoutError) as error:
            # the completion is durable; the follower will learn from it later
            _log.warning("learning from %s is put off: %s", episode_id, error)
            return {**answer, "learning": "pending"}
        if found is None:
            # a rule of retention, a rollback or a restore was faster; the completion was stored all the same
            return {**answer, "learning": "gone"}
        return {**answer, **_learned(episode_from(found), patterns)}

    async def get(
        self,
        episode_id: str,
        namespace: str,
        *,
        fields: Sequence[str] = (),
        token_budget: int = 0,
        after_step: int = 0,
        as_of: str = "",
    ) -> Json:
        """One episode. With a budget of tokens the steps come in pages: `next_step` says where to go on.

        With `as_of` (a ledger position, a time, or a snapshot) it is told as it was then.

        Raises:
            EpisodeNotFoundError, BeyondRecallError, SnapshotNotFoundError
            StorageUnavailableError: the store is out of order and no copy is at hand.
        """
        check_fields(fields, Episode.model_fields)
        if as_of:
            past = partial(past_episode, namespace=namespace, episode_id=episode_id, as_of=as_of)
            loaded = Loaded(await self._store.read(past))
        else:
            loaded = await self._store.episode(namespace, episode_id)
        if loaded.episode is None:
            raise EpisodeNotFoundError(f"there is no episode {episode_id!r} in namespace {namespace!r}")
        told = tell(episode_from(loaded.episode))
        steps = [step for step in told.pop("steps") if step["step_number"] > after_step]
        told = project(told, list(fields))
        if not fields or "steps" in fields:
            kept: list[Json] = []
            if token_budget:
                _, _, spent = fit([told], 0)
                for step in steps:
                    if not fit([*kept, step], max(1, token_budget - spent))[1]:
                        kept.append(step)
                    else:
                        break
                # a step that alone exceeds the budget is still told, or paging would never end
                kept = kept or steps[:1]
            else:
                kept = steps
            told["steps"] = kept
            if len(kept) < len(steps):
                told["next_step"] = kept[-1]["step_number"]
        return _marked(told, pending=loaded.pending > 0, degraded=loaded.degraded, pending_writes=loaded.pending)

    async def record(self, episode_id: str, namespace: str) -> Episode:
        """One episode as a record.

        Raises:
            EpisodeNotFoundError
            StorageUnavailableError: the store is out of order and no copy is at hand.
        """
        loaded = await self._store.episode(namespace, episode_id)
        if loaded.episode is None:
            raise EpisodeNotFoundError(f"there is no episode {episode_id!r} in namespace {namespace!r}")
        return episode_from(loaded.episode)

    async def recommend(
        self, draft: EpisodeDraft, namespace: str, *, max_steps: int = 5, episode_id: str = "", token_budget: int = 0
    ) -> Json:
        """A playbook for a task; with an `episode_id`, noted as shown to that episode.

        Raises:
            EpisodeNotFoundError, EpisodeClosedError: for the `episode_id`.
            StorageUnavailableError: the store is out of order.
        """
        start = await self._guidance.at_start(draft, namespace, max_steps=max_steps)
        if start.playbook is None:
            answer: Json = {
                "playbook": None,
                "reason": "no similar episode has succeeded yet",
                "precedents": start.precedents,
                "forecast": start.forecast,
            }
        else:
            answer = {"playbook": start.playbook, "precedents": start.precedents, "forecast": start.forecast}
        if token_budget and start.playbook is not None:
            rest = tokens({**answer, "playbook": None})
            answer["playbook"] = shortened(start.playbook, max(1, token_budget - rest))
        if episode_id and start.receipts:
            await self.show(episode_id, namespace, start.receipts)
        return _marked(answer, degraded=start.degraded)

    async def show(self, episode_id: str, namespace: str, receipts: list[Json]) -> None:
        """Note which memory was shown to an open episode; a completed one has nothing more to learn from it.

        Raises:
            EpisodeNotFoundError
        """
        loaded = await self._store.episode(namespace, episode_id)
        if loaded.episode is None:
            raise EpisodeNotFoundError(f"there is no episode {episode_id!r} in namespace {namespace!r}")
        if loaded.episode["status"] != "open" or self._store.read_only:
            # where nothing can be written the episode does not go on either
            return
        after = len(loaded.episode["steps"])
        payload = {"episode_id": episode_id, "receipts": [{**receipt, "shown_after": after} for receipt in receipts]}
        with contextlib.suppress(EpisodeClosedError):
            await self._write("memory.show", namespace, payload, "", self._clock.now())

    async def import_episode(self, imported: ImportedEpisode, namespace: str) -> bool:
        """Write a whole episode from elsewhere; False when it was imported before.

        Raises:
            EpisodeExistsError: what was imported before from this source is another episode.
            StorageUnavailableError: the store is out of order.
        """
        now = self._clock.now()
        started = imported.started_at if imported.started_at is not None else now
        ended = imported.ended_at if imported.ended_at is not None else started
        header = {
            **imported.model_dump(include=set(EpisodeDraft.model_fields)),
            # derived from the source, so that a second import meets the first
            "episode_id": str(uuid5(NAMESPACE_URL, f"memory-mcp:{namespace}:{imported.source_id}")),
            "namespace": namespace,
            "actor": imported.actor or self._actor,
            "started_at": started,
        }
        payload = {
            "episode": header,
            "steps": [{**step.model_dump(), "at": started if step.at is None else step.at} for step in imported.steps],
            "outcome": imported.outcome.model_dump() if imported.outcome else None,
            "ended_at": ended,
        }
        try:
            await self._write("episode.import", namespace, payload, imported.actor, now)
        except EpisodeExistsError:
            known = (await self._store.episode(namespace, str(header["episode_id"]))).episode
            outcome = imported.outcome and imported.outcome.type
            if known is not None and (
                known["task_description"] != imported.task_description
                or len(known["steps"]) != len(imported.steps)
                or (known["outcome"] and known["outcome"]["type"]) != outcome
            ):
                raise EpisodeExistsError(
                    "another episode with this source is there already, and was left as it is"
                ) from None
            return False
        return True

    async def _start(self, draft: EpisodeDraft, namespace: str) -> Start:
        try:
            return await self._guidance.at_start(draft, namespace)
        except StorageUnavailableError as error:
            _log.warning("no guidance: %s", error)
            return Start(degraded=True)
        except Exception:  # noqa: BLE001 - the record of the work matters more than the advice on it
            _log.exception("guidance failed")
            self._metrics.count("guidance_failed")
            return Start(degraded=True)

    async def _lessons(
        self, episode_id: str, steps: Sequence[StepDraft], namespace: str
    ) -> tuple[list[Json], list[Json]]:
        if all(step.result.ok for step in steps):
            return [], []
        try:
            loaded = await self._store.episode(namespace, episode_id)
            if loaded.episode is None or loaded.episode["status"] != "open":
                return [], []
            episode = episode_from(loaded.episode)
            first = len(episode.steps) + 1
            failed = [(first + offset, step) for offset, step in enumerate(steps) if not step.result.ok]
            return await self._guidance.after_errors(episode, failed)
        except StorageUnavailableError as error:
            _log.warning("no lessons: %s", error)
            return [], []
        except Exception:  # noqa: BLE001 - as above
            _log.exception("lessons failed")
            self._metrics.count("guidance_failed")
            return [], []

    async def _write(self, operation: str, namespace: str, payload: Json, actor: str, at: int) -> Written:
        return await self._store.write(
            Command(operation, namespace, payload, self._ids.new(), at, actor or self._actor)
        )


def tell(episode: Episode) -> Json:
    """An episode as doors show it: times in ISO 8601, nothing empty."""
    told = episode.model_dump(exclude_none=True)
    for name in ("started_at", "ended_at"):
        if name in told:
            told[name] = iso(told[name])
    for step in told["steps"]:
        step["at"] = iso(step["at"])
        step["result"] = {name: value for name, value in step["result"].items() if value not in ("", False)}
    for receipt in told["receipts"]:
        receipt["shown_at"] = iso(receipt["shown_at"])
    for name in ("context", "outcome"):
        if name in told:
            told[name] = {key: value for key, value in told[name].items() if value not in ("", [])}
    return {name: value for name, value in told.items() if value not in ("", [], {}) or name == "steps"}


def _learned(episode: Episode, patterns: list[tuple[str, Json, bool]]) -> Json:
    """What completing taught: reward, reflection, and the patterns that gained an observation."""
    kinds = Counter(kind for kind, _, _ in patterns)
    recoveries = [sentence(kind, body) for kind, body, resolved in patterns if kind == "error_recovery" and resolved]
    return {
        "reward": episode.reward,
        "reflection": episode.reflection,
        "learned": {
            "patterns": dict(kinds),
            "recoveries": recoveries[:3],
            "memories_shown": len(episode.receipts),
            "memories_used": [receipt["memory_id"] for receipt in episode.receipts if receipt["used"]],
        },
    }


def _within_budget(start: Start, budget: int) -> Json:
    """The parts of the guidance that fit, the most useful first: playbook, forecast, precedents, pitfalls."""
    parts: list[Json] = []
    if start.playbook is not None:
        share = round(_PLAYBOOK_SHARE * budget) if budget else 0
        parts.append({"playbook": shortened(start.playbook, share)})
    if start.forecast:
        parts.append({"forecast": start.forecast})
    parts += [{"precedent": precedent} for precedent in start.precedents]
    parts += [{"pitfall": pitfall} for pitfall in start.pitfalls]
    kept, left_out, _ = fit(parts, budget)
    shown: Json = {}
    for part in kept:
        for name, value in part.items():
            if name in ("precedent", "pitfall"):
                shown.setdefault(f"{name}s", []).append(value)
            else:
                shown[name] = value
    if left_out:
        shown["left_out"] = left_out
    return shown


def shortened(playbook: Json, budget: int) -> Json:
    """A playbook that fits a budget of tokens: first with less said about each step, then with fewer steps."""
    if not budget or tokens(playbook) <= budget:
        return playbook
    said: set[str] = set()
    for name in ("expect", "purpose", "evidence"):
        said.add(name)
        steps = [{key: value for key, value in step.items() if key not in said} for step in playbook["steps"]]
        brief = {**playbook, "steps": steps}
        if tokens(brief) <= budget:
            return brief
    brief = {**brief, "when_not_to_apply": [], "pitfalls": []}
    while len(brief["steps"]) > 1 and tokens(brief) > budget:
        brief = {**brief, "steps": brief["steps"][:-1], "left_out": brief["left_out"] + 1}
    return brief


def _named(shown: Json) -> set[str]:
    named = {precedent["episode_id"] for precedent in shown.get("precedents", [])}
    named |= {pitfall["pattern_id"] for pitfall in shown.get("pitfalls", [])}
    if "playbook" in shown:
        named.add(shown["playbook"]["source"])
    return named


def _marked(answer: Json, *, pending: bool = False, degraded: bool = False, pending_writes: int = 0) -> Json:
    """Say what is not as usual; a healthy answer carries no marks."""
    if pending:
        answer["pending"] = True
    if pending_writes:
        answer["pending_writes"] = pending_writes
    if degraded or pending:
        answer["degraded"] = True
    return answer
