"""Backups as directories: what is in one, which ones are complete, and which are old enough to go.

backups/20261121T031500Z-1f0c9a3e/    memory.db · pending.jsonl · manifest.json
backups/.partial-…                    being made or being deleted; of no use once nobody holds its lock
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from memory_mcp.clock import Clock, from_iso, iso
from memory_mcp.errors import BackupNotFoundError
from memory_mcp.records.base import Json
from memory_mcp.storage.filelock import Presence

FORMAT = 1
DATABASE, PENDING, MANIFEST = "memory.db", "pending.jsonl", "manifest.json"
# what is made again and again; copies saved before something was replaced or migrated are never deleted by the program
RETAINED_BY_NUMBER = ("manual", "scheduled")
DAMAGED = "damaged"

_PARTIAL = ".partial-"
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Backup:
    """A complete backup: where it lies and what its manifest says."""

    directory: Path
    manifest: Json

    @property
    def name(self) -> str:
        return self.directory.name

    @property
    def reason(self) -> str:
        return str(self.manifest["reason"])

    @property
    def created_at(self) -> int:
        """Microseconds since the epoch."""
        return from_iso(str(self.manifest["created_at"]))

    @property
    def position(self) -> int:
        """Where its ledger ends; 0 for raw files."""
        return int(self.manifest.get("ledger_position", 0))

    @property
    def bytes(self) -> int:
        return sum(int(file["bytes"]) for file in self.manifest["files"].values())

    def told(self) -> Json:
        """`{name, path, bytes, …}`: the manifest in short, for people and programs."""
        names = (
            "reason",
            "created_at",
            "store_id",
            "schema_version",
            "ledger_position",
            "episodes",
            "steps",
            "pending",
        )
        known = {name: self.manifest[name] for name in names if name in self.manifest}
        return {"name": self.name, "path": str(self.directory), "bytes": self.bytes, **known}


@dataclass(frozen=True, slots=True)
class Listing:
    """The complete backups of a place, newest first, and what else lies there, by name."""

    backups: list[Backup] = field(default_factory=list)
    others: dict[str, str] = field(default_factory=dict)


def load(directory: Path) -> Backup:
    """A backup from its directory.

    Raises:
        ValueError: it is none, or not complete.
        OSError: it cannot be read.
    """
    manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"its manifest is not of format {FORMAT}")
    try:
        backup = Backup(directory, manifest)
        _ = backup.reason, backup.created_at, backup.position, backup.bytes
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"its manifest is incomplete: {error}") from error
    for name, file in manifest["files"].items():
        path = directory / name
        if Path(name).name != name or not path.is_file():
            raise ValueError(f"{name} is missing")
        if path.stat().st_size != file["bytes"]:
            raise ValueError(f"{name} has {path.stat().st_size} bytes and not {file['bytes']}")
    return backup


def scan(place: Path) -> Listing:
    """Everything in a directory of backups.

    Raises:
        OSError: it cannot be read.
    """
    found = Listing()
    if not place.is_dir():
        return found
    for path in sorted(place.iterdir()):
        if path.name.startswith(_PARTIAL):
            if path.is_dir():
                found.others[path.name] = "not complete: being made, or left by a process that was killed"
            continue
        if not path.is_dir():
            if not path.name.startswith("."):
                found.others[path.name] = "no backup: not a directory"
            continue
        try:
            found.backups.append(load(path))
        except FileNotFoundError:
            found.others[path.name] = "no backup: it has no manifest"
        except (ValueError, OSError) as error:
            found.others[path.name] = f"not complete: {error}"
    found.backups.sort(key=lambda backup: (backup.created_at, backup.name), reverse=True)
    return found


def find(name: str, place: Path) -> Backup:
    """A backup by its name in `place`, or by its path.

    Raises:
        BackupNotFoundError
    """
    for directory in (place / name, Path(name).expanduser()):
        if name and (directory / MANIFEST).is_file():
            try:
                return load(directory)
            except (ValueError, OSError) as error:
                raise BackupNotFoundError(f"{directory} is not a complete backup: {error}") from error
    raise BackupNotFoundError(f"there is no backup {name!r}")


@contextmanager
def partial(place: Path) -> Iterator[Path]:
    """A new directory that nobody takes for a backup yet. What is not published by the end is deleted, and so is
    what killed processes have left."""
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    remove_leftovers(place)
    directory, lock = _claim(place)
    try:
        directory.mkdir(mode=0o700)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        _lock_of(directory).unlink(missing_ok=True)
        lock.close()


def publish(directory: Path, clock: Clock, manifest: Json) -> Backup:
    """Make a partial directory a backup: checksums, manifest, everything on disk, and only then its name."""
    created = clock.now()
    files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in sorted(directory.iterdir())}
    manifest = {"format": FORMAT, "created_at": iso(created), **manifest, "files": files}
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False), encoding="utf-8")
    for path in directory.iterdir():
        sync(path)
    sync(directory)
    stamp = iso(created)[:19].replace("-", "").replace(":", "")
    target = directory.with_name(f"{stamp}Z-{uuid4().hex[:8]}")
    directory.rename(target)
    sync(target.parent)
    return Backup(target, manifest)


def retain(place: Path, keep: int) -> list[str]:
    """Delete all but the newest `keep` backups that were made by hand or by schedule; returns their names."""
    old = [backup for backup in scan(place).backups if backup.reason in RETAINED_BY_NUMBER][keep:]
    for backup in old:
        with partial(place) as going:
            # from this rename on it is no backup any more, whatever happens
            backup.directory.rename(going / backup.name)
    return [backup.name for backup in old]


def remove_leftovers(place: Path) -> None:
    """Delete what processes that were killed have left half done."""
    for lock_file in place.glob(f"{_PARTIAL}*.lock"):
        try:
            lock = Presence(lock_file)
        except OSError:
            continue
        if lock.alone(0.0):
            shutil.rmtree(lock_file.with_suffix(""), ignore_errors=True)
            with suppress(OSError):
                lock_file.unlink()
        lock.close()


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Have a file, or the names in a directory, on disk."""
    flags: Any = os.O_RDONLY if path.is_dir() or os.name != "nt" else os.O_RDWR
    try:
        descriptor = os.open(path, flags)
    except PermissionError:
        if path.is_dir() and os.name == "nt":
            # this platform does not open directories
            return
        raise
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _claim(place: Path) -> tuple[Path, Presence]:
    while True:
        directory = place / f"{_PARTIAL}{uuid4().hex[:12]}"
        lock_file = _lock_of(directory)
        lock = Presence(lock_file)
        # somebody who cleans up may have taken the file away before it was locked
        if lock.alone(0.0) and lock_file.exists():
            return directory, lock
        lock.close()


def _lock_of(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}.lock")
