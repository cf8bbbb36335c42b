"""The writing side of a unit of work: rows, ledger entry and search unit, committed together or not at all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

from memory_mcp.records.base import Json, dumps
from memory_mcp.records.ledger import GENESIS, Command, LedgerEntry, namespace_hash, payload_digest
from memory_mcp.storage.session import Session


class Recipe(Protocol):
    """How records become searchable text. The retrieval layer supplies it; its `version` is stored with each unit."""

    version: int

    def task(self, episode: Json) -> str:
        """Text of a task from the episode's header."""
        ...

    def step(self, step: Json) -> str:
        """Text of one step."""
        ...

    def lesson(self, episode: Json) -> str:
        """Text of what a completed episode teaches: outcome and reflection."""
        ...

    def pattern(self, kind: str, body: Json) -> str:
        """Text of a pattern."""
        ...

    def terms(self, text: str) -> str:
        """The search terms of a text, one space between two."""
        ...


class Index(Protocol):
    """The full-text index of an engine."""

    def put(self, session: Session, unit_id: int, terms: str) -> None: ...

    def remove(self, session: Session, unit_id: int) -> None: ...


class Transaction:
    """One command being carried out: its session, and the ledger entries it has appended so far."""

    def __init__(self, session: Session, command: Command, recipe: Recipe, index: Index) -> None:
        self.session = session
        self.command = command
        self.ns_hash = namespace_hash(command.namespace)
        self.entries: list[LedgerEntry] = []
        self.recipe = recipe
        self._index = index

    def next_position(self) -> int:
        """The ledger position that the next entry will get: the version of the rows written with it."""
        row = self.session.one("SELECT coalesce(max(position), 0) + 1 FROM ledger")
        assert row is not None
        return int(row[0])

    def append(self, operation: str, subject_kind: str, subject_id: str, payload: Json) -> LedgerEntry:
        """Append a ledger entry with the after-image of its subject."""
        sequence, previous = self._head()
        text = dumps(payload)
        command = self.command
        unsigned = LedgerEntry(
            position=self.next_position(),
            sequence=sequence + 1,
            at=command.at,
            namespace=command.namespace,
            actor=command.actor,
            operation=operation,
            subject_kind=subject_kind,
            subject_id=subject_id,
            write_id=command.write_id,
            payload=text,
            payload_digest=payload_digest(text),
            previous_hash=previous,
            hash=b"",
        )
        digest = unsigned.expected_hash()
        self.session.run(
            "INSERT INTO ledger (position, ns_hash, sequence, at, namespace, actor, operation, subject_kind,"
            " subject_id, write_id, payload, payload_digest, previous_hash, hash)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
            unsigned.position,
            self.ns_hash,
            unsigned.sequence,
            unsigned.at,
            unsigned.namespace,
            unsigned.actor,
            operation,
            subject_kind,
            subject_id,
            unsigned.write_id,
            text,
            unsigned.payload_digest,
            previous,
            digest,
        )
        self.session.run(
            "UPDATE namespaces SET head_sequence = $2, head_hash = $3 WHERE ns_hash = $1",
            self.ns_hash,
            unsigned.sequence,
            digest,
        )
        entry = replace(unsigned, hash=digest)
        self.entries.append(entry)
        return entry

    def put_unit(
        self, kind: str, subject_id: str, episode_id: str, text: str, *, step_number: int = 0, embed: bool = False
    ) -> None:
        """Make a text findable by its words, in place of an earlier text of the same subject.

        With `embed` the text is kept, for the follower that makes it findable by meaning.
        """
        self.remove_unit(kind, subject_id, step_number)
        row = self.session.one(
            "INSERT INTO units (ns_hash, kind, subject_id, episode_id, step_number, recipe, embed, text)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING unit_id",
            self.ns_hash,
            kind,
            subject_id,
            episode_id,
            step_number,
            self.recipe.version,
            int(embed),
            text if embed else "",
        )
        assert row is not None
        self._index.put(self.session, row[0], self.recipe.terms(text))

    def remove_unit(self, kind: str, subject_id: str, step_number: int = 0) -> None:
        """Make a text of a subject unfindable, in both legs of the search."""
        row = self.session.one(
            "DELETE FROM units WHERE ns_hash = $1 AND subject_id = $2 AND kind = $3 AND step_number = $4"
            " RETURNING unit_id",
            self.ns_hash,
            subject_id,
            kind,
            step_number,
        )
        if row is not None:
            self._index.remove(self.session, row[0])
            self.session.run("DELETE FROM vectors WHERE unit_id = $1", row[0])

    def remove_units(self, episode_id: str) -> None:
        """Make an episode and all its parts unfindable."""
        for kind, number in self.session.all(
            "SELECT kind, step_number FROM units WHERE ns_hash = $1 AND subject_id = $2 AND episode_id = $2",
            self.ns_hash,
            episode_id,
        ):
            self.remove_unit(kind, episode_id, number)

    def add(self, table: str, key: dict[str, Any], amounts: dict[str, float]) -> None:
        """Add to the counters of a row, creating it with zeros first where it is missing."""
        names = ["ns_hash", *key, *amounts]
        values = [self.ns_hash, *key.values(), *amounts.values()]
        sums = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in amounts)
        self.session.run(
            f"INSERT INTO {table} ({', '.join(names)})"
            f" VALUES ({', '.join(f'${number}' for number in range(1, len(values) + 1))})"
            f" ON CONFLICT (ns_hash, {', '.join(key)}) DO UPDATE SET {sums}",
            *values,
        )

    def _head(self) -> tuple[int, bytes]:
        row = self.session.one("SELECT head_sequence, head_hash FROM namespaces WHERE ns_hash = $1", self.ns_hash)
        if row is not None:
            return int(row[0]), bytes(row[1])
        self.session.run(
            "INSERT INTO namespaces (ns_hash, namespace, created_at, head_sequence, head_hash)"
            " VALUES ($1, $2, $3, 0, $4)",
            self.ns_hash,
            self.command.namespace,
            self.command.at,
            GENESIS,
        )
        return 0, GENESIS
