"""`storage verify`: every check of a data directory on one snapshot, beside running servers, and the repair."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from memory_mcp.errors import StoreCorruptError
from memory_mcp.learning.relearn import derived
from memory_mcp.records.base import Json
from memory_mcp.retrieval.recipe import TextRecipe
from memory_mcp.storage import checkpoint as checkpoints
from memory_mcp.storage import ledger, queries, sqlite_offline
from memory_mcp.storage.session import Session
from memory_mcp.storage.verify import followed, rows, sqlite_checks, surroundings, units, words
from memory_mcp.storage.verify.findings import Finding, Findings, damage, note
from memory_mcp.storage.verify.repair import repair

ENGINE = "sqlite"

Progress = Callable[[str], None]


@dataclass(slots=True)
class Report:
    """What a verification found. `waiting` is the number of writes in the pending journal."""

    store_id: str = ""
    position: int = 0
    waiting: int = 0
    findings: list[Finding] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)

    @property
    def errors(self) -> int:
        """Errors that are still there."""
        return sum(finding.severity == "error" and not finding.repaired for finding in self.findings)

    def as_dict(self) -> Json:
        """`{sound, store_id, position, waiting, errors, warnings, repaired, findings}`."""
        return {
            "sound": self.errors == 0,
            "store_id": self.store_id,
            "position": self.position,
            "waiting": self.waiting,
            "errors": self.errors,
            "warnings": sum(finding.severity == "warning" for finding in self.findings),
            "repaired": sum(finding.repaired for finding in self.findings),
            "findings": [finding.as_dict() for finding in self.findings],
        }


class Verifier:
    """Checks the data directory of a memory, whether or not servers work in it.

    Args:
        boot_id: what identifies this boot of the machine.
        busy_seconds: how long SQLite waits for a lock.
        lock_seconds: how long a repair waits for its turn.
        quick: leave out what reads every row.
        checkpoint, public_key: a checkpoint that the history must still contain, and whose signature it must bear.
        progress: told the name of each check when it begins.
    """

    def __init__(
        self,
        data_dir: Path,
        boot_id: str,
        *,
        busy_seconds: float = 5.0,
        lock_seconds: float = 5.0,
        quick: bool = False,
        checkpoint: Json | None = None,
        public_key: bytes | None = None,
        progress: Progress = lambda _: None,
    ) -> None:
        self._data = data_dir
        self._path = data_dir / "memory.db"
        self._boot_id = boot_id
        self._busy_seconds = busy_seconds
        self._lock_seconds = lock_seconds
        self._quick = quick
        self._checkpoint = checkpoint
        self._public_key = public_key
        self._progress = progress
        self._recipe = TextRecipe()
        self._derive = partial(derived, recipe=self._recipe)

    def verify(self) -> Report:
        """Check everything on one snapshot; nothing is changed.

        Raises:
            StorageUnavailableError: there is no store, or it cannot be read now.
            SchemaTooNewError: the store was written by a newer version.
        """
        report = Report()
        cache = surroundings.CacheInspection(self._data / "cache", self._boot_id)
        try:
            with sqlite_offline.snapshot(self._path, self._busy_seconds) as session:
                self._check(session, report)
                self._begin("cache")
                report.findings += _guarded(session, "cache", cache.check(session, report.store_id, quick=self._quick))
        except StoreCorruptError as error:
            report.findings.append(damage("sqlite", self._path.name, error.message))
        finally:
            cache.close()
        self._begin("journal")
        report.waiting, found = surroundings.check_journal(self._data / "pending")
        report.findings += found
        return report

    def repair(self, before: Callable[[Path], None] = lambda _: None) -> Report:
        """Check, make right what can be, and check again. Findings that are gone then are marked as repaired.

        Args:
            before: called with the database file before the first change, for a copy of it.

        Raises:
            StorageUnavailableError: as `verify`, and where no turn to write came in time.
        """
        first = self.verify()
        if not any(finding.repairable for finding in first.findings) or not _usable(first.findings):
            return first
        before(self._path)
        # the cache alone needs no change of the store
        if any(finding.repairable and finding.check != "cache" for finding in first.findings):
            with sqlite_offline.transaction(
                self._path, lock_seconds=self._lock_seconds, busy_seconds=self._busy_seconds
            ) as session:
                # what was found on a snapshot may have changed since
                now = Report()
                self._check(session, now)
                repair(session, now.findings, now.broken, self._recipe, self._derive)
        surroundings.rebuild_cache(self._data / "cache", first.store_id, self._boot_id)
        second = self.verify()
        left = {(finding.check, finding.subject) for finding in second.findings}
        gone = [
            replace(finding, repaired=True)
            for finding in first.findings
            if finding.repairable and (finding.check, finding.subject) not in left
        ]
        second.findings[:0] = gone
        return second

    def _check(self, session: Session, report: Report) -> None:
        """Every check of the database itself, the fundamental ones first."""
        recipe, quick = self._recipe, self._quick
        add = partial(self._add, session, report)
        add("sqlite", sqlite_checks.check_file(session, quick=quick))
        add("schema", sqlite_checks.check_schema(session, ENGINE))
        if not _usable(report.findings):
            return
        row = session.one("SELECT value FROM meta WHERE key = 'store_id'")
        report.store_id = str(row[0]) if row else ""
        with suppress(session.DatabaseError):
            # a table that cannot be read is a finding of the check of the ledger
            report.position = queries.head_position(session)
        add("ledger", self._ledger(session, report))
        add("cursors", followed.check_cursors(session))
        add("erasure", followed.check_erasure(session))
        if self._checkpoint is not None:
            add("checkpoint", checkpoints.check(session, report.store_id, self._checkpoint, self._public_key))
        if quick:
            return
        add("foreign_keys", sqlite_checks.check_foreign_keys(session))
        add("rows", rows.check_rows(session, report.broken))
        add("learned", self._learned(session))
        add("units", units.check_units(session, recipe))
        add("words", words.check_words(session, recipe))
        add("vectors", followed.check_vectors(session))

    def _add(self, session: Session, report: Report, check: str, found: Findings) -> None:
        self._begin(check)
        report.findings += _guarded(session, check, found)

    def _ledger(self, session: Session, report: Report) -> Findings:
        for finding in ledger.verify(session):
            subject = f"{finding.namespace} entry {finding.sequence}" if finding.sequence else "ledger"
            if finding.named:
                yield note("ledger", subject, finding.problem)
                continue
            report.broken.add(finding.namespace)
            yield damage("ledger", subject, finding.problem)

    def _learned(self, session: Session) -> Findings:
        with self._derive(session) as expected:
            yield from followed.compare_learned(session, expected)

    def _begin(self, check: str) -> None:
        self._progress(check)


def checkpoint_of(data_dir: Path, key: Path, at: int, *, busy_seconds: float = 5.0) -> Json:
    """A checkpoint of the store as it is now, signed with the key in a file, which is made on first use.

    Raises:
        CheckpointError: the key cannot be used.
        StorageError: the store cannot be read, or its ledger is not whole: nothing would be gained by signing that.
    """
    with sqlite_offline.snapshot(data_dir / "memory.db", busy_seconds) as session:
        store_id = str((session.one("SELECT value FROM meta WHERE key = 'store_id'") or ("",))[0])
        if any(not finding.named for finding in ledger.verify(session)):
            raise StoreCorruptError("the ledger is not whole, so it is not signed")
        return checkpoints.take(session, store_id, at, checkpoints.private_key(key))


def _usable(findings: list[Finding]) -> bool:
    """Whether the schema lets every check and repair ask its questions."""
    return not any(item.check == "schema" and item.severity == "error" and not item.repairable for item in findings)


def _guarded(session: Session, check: str, found: Findings) -> list[Finding]:
    """The findings of a check; where it breaks off, because what it reads is damaged, that is one more finding."""
    findings: list[Finding] = []
    try:
        findings.extend(found)
    except (session.DatabaseError, KeyError, TypeError, ValueError) as error:
        problem = f"this check could not be finished: {type(error).__name__}: {error}"
        findings.append(damage(check, check, problem))
    return findings
