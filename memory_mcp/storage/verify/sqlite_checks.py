"""What SQLite itself can tell about a database file, and whether the schema is the one that the migrations make."""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import dataclass

from sqlcipher3 import dbapi2 as sqlite

from memory_mcp.storage import migrations
from memory_mcp.storage.session import Session
from memory_mcp.storage.sqlite_session import SqliteSession
from memory_mcp.storage.verify.findings import Findings, damage, note, slip

_MOST_MESSAGES = 1_000_000
# problems of an index alone: its table holds all that it needs to be made anew
_OF_AN_INDEX = re.compile(r"(missing from|in|row \d+ of) index (?P<index>\S+)$")
_OF_A_TREE = re.compile(r"^Tree (?P<root>\d+) ")
_OF_THE_WORDS = re.compile(r"fts5|table units_fts")


@dataclass(frozen=True, slots=True)
class Object:
    """A table or index: the table it belongs to, and its statement (empty where SQLite made it by itself)."""

    table: str
    sql: str

    @property
    def plain(self) -> str:
        """The statement without its layout."""
        return " ".join(self.sql.split())


Objects = dict[tuple[str, str], Object]


def check_file(session: Session, *, quick: bool = False) -> Findings:
    """Every message of `integrity_check` (or of `quick_check`, which leaves out that indexes match their tables)."""
    kinds: dict[int, str] = dict(session.all("SELECT rootpage, type FROM sqlite_schema WHERE rootpage > 0"))
    for (message,) in session.all(f"PRAGMA {'quick' if quick else 'integrity'}_check({_MOST_MESSAGES})"):
        if message == "ok":
            continue
        tree = _OF_A_TREE.match(message)
        if _OF_THE_WORDS.search(message):
            yield slip("words", "units_fts", f"SQLite says: {message}")
        elif match := _OF_AN_INDEX.search(message):
            yield slip("sqlite", f"index {match['index']}", f"SQLite says: {message}")
        elif tree and kinds.get(int(tree["root"])) == "index":
            yield slip("sqlite", "an index", f"SQLite says: {message}")
        else:
            yield damage("sqlite", "memory.db", f"SQLite says: {message}")


def check_foreign_keys(session: Session) -> Findings:
    """Rows whose episode does not exist."""
    for table, rowid, parent, _ in session.all("PRAGMA foreign_key_check"):
        yield slip("foreign_keys", f"{table} row {rowid}", f"it belongs to no row of {parent}")


def check_schema(session: Session, engine: str) -> Findings:
    """Tables and indexes that are missing or are not what the migrations make.

    Raises:
        SchemaTooNewError: the store was written by a newer version of this program.
        StoreCorruptError: the file is a database, but not one of ours.
    """
    version = migrations.known_version(session)
    migrations.check(version, engine)
    newest = max(migrations.statements(engine))
    if version < newest:
        hint = "Any server that opens it brings it up to date."
        yield note("schema", "meta", f"the schema has version {version}; this program makes {newest}", hint)
    if session.one("SELECT 1 FROM meta WHERE key = 'store_id'") is None:
        yield damage("schema", "meta", "the store has no store_id")
    present = objects(session)
    for (kind, name), wanted in made_by_migrations(engine, version).items():
        subject = f"{kind} {name}"
        if (kind, name) in present:
            if present[kind, name].plain != wanted.plain:
                yield damage("schema", subject, "it is not what the migrations of this program make")
        elif kind == "table":
            yield (slip if name in MADE_AGAIN else damage)("schema", subject, "it is missing")
        elif ("table", wanted.table) in present:
            yield slip("schema", subject, "it is missing")


# tables whose rows follow from others, or that may be empty
MADE_AGAIN = frozenset(
    {
        "units_vocab",
        "followers",
        "leases",
        "receipts",
        "steps",
        "credits",
        "patterns",
        "pattern_counts",
        "group_counts",
        "pattern_sources",
        "scope_stats",
        "tool_stats",
        "vectors",
    }
)


def objects(session: Session) -> Objects:
    """What a schema has, by type and name."""
    rows = session.all("SELECT type, name, tbl_name, sql FROM sqlite_schema")
    return {(kind, name): Object(table, sql or "") for kind, name, table, sql in rows}


def made_by_migrations(engine: str, version: int) -> Objects:
    """The objects of a fresh store of a schema version."""
    with closing(sqlite.connect(":memory:", isolation_level=None)) as connection:
        session = SqliteSession(connection)
        for number, statements in migrations.statements(engine).items():
            if number <= version:
                for statement in statements:
                    session.run(statement)
        return objects(session)


def make_missing(session: Session, engine: str) -> None:
    """Make the tables and indexes that are missing; the tables are empty then."""
    present = objects(session)
    expected = made_by_migrations(engine, migrations.known_version(session))
    missing = {key: wanted for key, wanted in expected.items() if key not in present and wanted.sql}
    for (kind, name), wanted in missing.items():
        if kind == "table" and name in MADE_AGAIN:
            session.run(wanted.sql)
    for (kind, _), wanted in missing.items():
        if kind == "index" and (("table", wanted.table) in present or wanted.table in MADE_AGAIN):
            session.run(wanted.sql)
