"""Numbered forward migrations of the schema."""

from __future__ import annotations

import re
from importlib import resources

from memory_mcp.errors import SchemaTooNewError, StoreCorruptError
from memory_mcp.storage.session import Session

_NAME = re.compile(r"^(\d{4})_\w+(?:\.(\w+))?\.sql$")


def statements(engine: str) -> dict[int, list[str]]:
    """The statements of every schema version, portable ones first, then those of `engine`."""
    found: dict[int, list[tuple[str, str]]] = {}
    for file in resources.files("memory_mcp.storage").joinpath("schema").iterdir():
        match = _NAME.match(file.name)
        if match and match[2] in (None, engine):
            found.setdefault(int(match[1]), []).append((match[2] or "", file.read_text(encoding="utf-8")))
    return {
        version: [
            statement
            for _, text in sorted(parts)
            for statement in (part.strip() for part in text.split(";\n"))
            if statement
        ]
        for version, parts in sorted(found.items())
    }


def current_version() -> int:
    """The schema version that this code reads and writes."""
    return max(statements("sqlite"))


def migrate(session: Session, engine: str, store_id: str, *, fresh: bool) -> int:
    """Bring the schema up to date inside the caller's transaction; returns the version it had before (0: new).

    Raises:
        SchemaTooNewError: the store was written by a newer version of this program.
        StoreCorruptError: the file is a database, but not one of ours.
    """
    plan = statements(engine)
    newest = max(plan)
    if fresh:
        before = 0
    else:
        try:
            row = session.one("SELECT value FROM meta WHERE key = 'schema_version'")
        except session.DatabaseError as error:
            raise StoreCorruptError(f"this database does not belong to memory-mcp: {error}") from error
        if row is None:
            raise StoreCorruptError("this database does not belong to memory-mcp: it has no schema version")
        before = int(row[0])
    if before > newest:
        raise SchemaTooNewError(f"the store has schema version {before}; this program knows versions up to {newest}")
    for version, steps in plan.items():
        if version > before:
            for statement in steps:
                session.run(statement)
    if before == 0:
        session.run("INSERT INTO meta (key, value) VALUES ('store_id', $1)", store_id)
        session.run("INSERT INTO meta (key, value) VALUES ('schema_version', $1)", str(newest))
    elif before < newest:
        session.run("UPDATE meta SET value = $1 WHERE key = 'schema_version'", str(newest))
    return before
