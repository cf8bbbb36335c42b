"""The semantic leg: exact search over the vectors of units, kept by every process and renewed from the store.

Half-precision vectors live in the store; here they are single precision, because numpy multiplies those ten times
faster. A search over 20,000 of them takes half a millisecond.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from memory_mcp.storage import pattern_queries
from memory_mcp.storage.session import Row, Session

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_BATCH = 2_000
_WASTE_TOLERATED = 4_096


@dataclass(slots=True)
class Fresh:
    """What the store has that an index lacks: new rows, and for episodes that were taken back the units they have."""

    rows: list[Row]
    revised_at: int = 0
    left: dict[str, set[int]] = field(default_factory=dict)


def pack(vector: NDArray[np.float32]) -> bytes:
    """A vector as half-precision bytes."""
    return bytes(vector.astype("<f2").tobytes())


class VectorIndex:
    """Vectors of one embedding model. Rows are appended, never moved; a row whose unit is gone is masked."""

    def __init__(self, model_id: str, dimensions: int) -> None:
        from memory_mcp.numerics import np

        self.model_id = model_id
        self.dimensions = dimensions
        self.last_unit = 0
        self.dead = 0
        # ledger position up to which episodes that were taken back are known; below 0: nothing was read yet
        self._revised_at = -1
        self.units: list[tuple[int, str, str]] = []  # (unit_id, kind, episode_id)
        self.rows_of: dict[str, list[int]] = {}  # episode_id -> rows
        self._matrix: NDArray[np.float32] = np.empty((0, dimensions), np.float32)
        self._namespaces: NDArray[np.int64] = np.empty(0, np.int64)
        self._alive: NDArray[np.bool_] = np.empty(0, np.bool_)

    def __len__(self) -> int:
        return len(self.units)

    @property
    def wasteful(self) -> bool:
        """Whether most rows are dead, and worth the work of leaving them out."""
        return self.dead > _WASTE_TOLERATED and 2 * self.dead > len(self.units)

    def refresh(self, session: Session) -> Fresh:
        """What is new in the store, to be handed to `extend` on the thread that searches."""
        revised_at = pattern_queries.last_revision(session)
        fresh = Fresh(self._new_rows(session), revised_at)
        if 0 <= self._revised_at < revised_at:
            fresh.left = pattern_queries.units_of_revised(session, self._revised_at)
        return fresh

    def compacted(self) -> VectorIndex:
        """An index of the living rows alone."""
        other = VectorIndex(self.model_id, self.dimensions)
        keep = self._alive[: len(self.units)].nonzero()[0]
        other._matrix, other._namespaces = self._matrix[keep], self._namespaces[keep]
        other._alive = self._alive[keep]
        other.units = [self.units[row] for row in keep]
        for row, (_, _, episode_id) in enumerate(other.units):
            other.rows_of.setdefault(episode_id, []).append(row)
        other.last_unit, other._revised_at = self.last_unit, self._revised_at
        return other

    def _new_rows(self, session: Session) -> list[Row]:
        return session.all(
            "SELECT v.unit_id, u.kind, u.episode_id, v.ns_hash, v.vector FROM vectors v"
            " JOIN units u ON u.unit_id = v.unit_id WHERE v.unit_id > $1 AND v.model_id = $2"
            " ORDER BY v.unit_id LIMIT $3",
            self.last_unit,
            self.model_id,
            _BATCH,
        )

    def extend(self, fresh: Fresh) -> bool:
        """Take what `refresh` found; True when there may be more."""
        from memory_mcp.numerics import np

        rows = fresh.rows
        if fresh.revised_at > self._revised_at:
            self._revised_at = fresh.revised_at
            for episode_id, left in fresh.left.items():
                for row in self.rows_of.get(episode_id, ()):
                    if self.units[row][0] not in left:
                        self._kill(row)
        # somebody else may have taken the same rows meanwhile; there may be more behind them all the same
        more = len(rows) == _BATCH
        rows = [row for row in rows if row[0] > self.last_unit]
        if not rows:
            return more
        self.last_unit = rows[-1][0]
        # a vector of another length was not made by this model, whatever its name
        rows = [row for row in rows if len(row[4]) == 2 * self.dimensions]
        count = len(self.units)
        needed = count + len(rows)
        if needed > len(self._matrix):
            capacity = max(needed, 2 * len(self._matrix), 1024)
            self._matrix = _grown(self._matrix, (capacity, self.dimensions))
            self._namespaces = _grown(self._namespaces, (capacity,))
            self._alive = _grown(self._alive, (capacity,))
        block = np.frombuffer(b"".join(row[4] for row in rows), "<f2").reshape(len(rows), self.dimensions)
        self._matrix[count:needed] = block
        self._namespaces[count:needed] = [row[3] for row in rows]
        self._alive[count:needed] = True
        for offset, (unit_id, kind, episode_id, _, _) in enumerate(rows):
            for earlier in self.rows_of.setdefault(episode_id, []):
                # a unit that replaces another one of its episode
                if self.units[earlier][1] == kind:
                    self._kill(earlier)
            self.units.append((unit_id, kind, episode_id))
            self.rows_of[episode_id].append(count + offset)
        return more

    def similarities(self, query: NDArray[np.float32], ns_hash: int) -> NDArray[np.float32]:
        """Cosine similarity of every row to a unit vector; -1 for rows of other namespaces and dead rows."""
        from memory_mcp.numerics import np

        count = len(self.units)
        scores = self._matrix[:count] @ query
        hidden = (self._namespaces[:count] != ns_hash) | ~self._alive[:count]
        result: NDArray[np.float32] = np.where(hidden, np.float32(-1.0), scores)
        return result

    def best_of(self, scores: NDArray[np.float32], names: Iterable[str]) -> dict[str, float]:
        """The greatest of some similarities for each of these episodes that has any."""
        found: dict[str, float] = {}
        for name in names:
            # a row may have come after the scores
            best = max((float(scores[row]) for row in self.rows_of.get(name, ()) if row < len(scores)), default=-1.0)
            if best > -1.0:
                found[name] = best
        return found

    def _kill(self, row: int) -> None:
        if self._alive[row]:
            self._alive[row] = False
            # what was forgotten must not stay in memory either
            self._matrix[row] = 0.0
            self.dead += 1


def best_rows(scores: NDArray[np.float32], limit: int) -> list[int]:
    """Indices of the greatest scores, best first; hidden rows are left out."""
    from memory_mcp.numerics import np

    if not len(scores):
        return []
    limit = min(limit, len(scores))
    top = np.argpartition(-scores, limit - 1)[:limit]
    ordered = top[np.argsort(-scores[top], kind="stable")]
    return [int(row) for row in ordered if scores[row] > -1.0]


def _grown(array: Any, shape: tuple[int, ...]) -> Any:
    from memory_mcp.numerics import np

    grown = np.zeros(shape, array.dtype)
    grown[: len(array)] = array
    return grown
