"""Numbered forward migrations of the schema."""

from __future__ import annotations

import re
from importlib import resources

from memory_mcp.errors import MigrationRefusedError, SchemaTooNewError, StoreCorruptError
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


def version(session: Session) -> int:
    """The schema version of a store; 0: an empty one.

    Raises:
        StoreCorruptError: the file is a database, but not one of ours.
    """
    empty = session.one("SELECT 1 FROM sqlite_schema LIMIT 1") is None
    return 0 if empty else known_version(session)


def known_version(session: Session) -> int:
    """The schema version of a store that is not empty.

    Raises:
        StoreCorruptError: the file is a database, but not one of ours.
    """
    try:
        row = session.one("SELECT value FROM meta WHERE key = 'schema_version'")
    except session.DatabaseError as error:
        if "no such" not in str(error):
            raise
        raise StoreCorruptError(f"this database does not belong to memory-mcp: {error}") from error
    if row is None or not str(row[0]).isdecimal():
        raise StoreCorruptError("this database does not belong to memory-mcp: it has no schema version")
    return int(row[0])


def newest(engine: str) -> int:
    """The schema version that this program writes."""
    return max(statements(engine))


def check(found: int, engine: str) -> None:
    """Refuse a schema that this program does not know.

    Raises:
        SchemaTooNewError: the store was written by a newer version of this program.
    """
    known = newest(engine)
    if found > known:
        raise SchemaTooNewError(f"the store has schema version {found}; this program knows versions up to {known}")


def check_newest(found: int, engine: str, hindrance: str) -> None:
    """Refuse a schema that would have to be migrated where something is in the way of that.

    Raises:
        MigrationRefusedError
    """
    if found < newest(engine):
        raise MigrationRefusedError(
            f"the store has schema version {found} and cannot get version {newest(engine)}: {hindrance}",
            hint="Make the data directory writable, and start again; the store was not changed.",
        )


def migrate(session: Session, engine: str, store_id: str, *, before: int) -> None:
    """Bring the schema from version `before` (0: an empty store) up to date inside the caller's transaction.

    Raises:
        SchemaTooNewError: the store was written by a newer version of this program.
    """
    check(before, engine)
    plan = statements(engine)
    last = max(plan)
    for number, steps in plan.items():
        if number > before:
            for statement in steps:
                session.run(statement)
    if before == 0:
        session.run("INSERT INTO meta (key, value) VALUES ('store_id', $1)", store_id)
        session.run("INSERT INTO meta (key, value) VALUES ('schema_version', $1)", str(last))
    elif before < last:
        session.run("UPDATE meta SET value = $1 WHERE key = 'schema_version'", str(last))
