"""The cache: never older than what was put, equal to the store once it has caught up, and replaced when it is lost."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_mcp.errors import CacheUnavailableError, MemoryMCPError
from memory_mcp.records.base import Json
from memory_mcp.records.ledger import LedgerEntry
from memory_mcp.storage import queries
from memory_mcp.storage.cache import Cache
from memory_mcp.storage.cache_files import CacheDamagedError
from memory_mcp.storage.cache_layout import COUNT, HEADER, key, puts_for
from memory_mcp.storage.sqlite_session import SqliteSession
from tests.storage.support import add, bare_session, carry_out, complete, create, learn, receipt, show, step

STORE, BOOT = "store-1", "boot-1"

_fresh = itertools.count()


@contextmanager
def opened(directory: Path, **arguments: Any) -> Iterator[Cache]:
    cache = Cache(directory, arguments.pop("store_id", STORE), arguments.pop("boot_id", BOOT), **arguments)
    cache.open()
    with closing(cache):
        cache.start(0)
        yield cache


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """A new directory for every example."""
    root = tmp_path_factory.mktemp("caches")
    return lambda: root / str(next(_fresh))


def visible(episode: Json | None) -> Json | None:
    """What cache and store must agree on; the counters are redundant and kept by the store alone."""
    if episode is None:
        return None
    return {name: value for name, value in episode.items() if name not in ("step_count", "error_count")}


def written(*commands: Any) -> list[LedgerEntry]:
    session = bare_session()
    return [entry for command in commands for entry in carry_out(session, command).entries]


EPISODES = [("default", "e1"), ("default", "e2"), ("team/b", "e1")]
actions = st.lists(
    st.tuples(
        st.sampled_from(["create", "add", "add", "add", "show", "complete", "learn"]),
        st.sampled_from(EPISODES),
        st.sampled_from(["apply", "apply", "apply", "lose", "delay"]),
        st.sampled_from(["", "", "", "fill", "snapshot", "late fill", "catch up", "rebuild", "late apply"]),
        st.integers(1, 3),
    ),
    max_size=25,
)


def act(session: SqliteSession, what: str, namespace: str, episode_id: str, number: int) -> list[LedgerEntry]:
    """Carry out something that may fit or not; whatever is refused leaves no entries."""
    shown = [receipt(f"m{each}", after=number) for each in range(number)]
    if what == "create":
        command = create(episode_id, namespace=namespace, receipts=shown[1:])
    elif what == "add":
        taken = [step(error="boom" if each % 2 else "") for each in range(number)]
        command = add(episode_id, *taken, receipts=shown[2:], namespace=namespace)
    elif what == "show":
        command = show(episode_id, *shown, namespace=namespace)
    elif what == "complete":
        command = complete(episode_id, namespace=namespace)
    else:
        stored = queries.episode(session, namespace, episode_id)
        if stored is None or stored["status"] == "open" or stored["reward"]:
            return []
        command = learn(episode_id, "m0", "m1", shown=stored["receipts"], namespace=namespace)
    session.run("SAVEPOINT act")
    try:
        return carry_out(session, command).entries
    except MemoryMCPError:
        session.run("ROLLBACK TO act")
        return []
    finally:
        session.run("RELEASE act")


def catch_up(session: SqliteSession, cache: Cache) -> None:
    """As the store does it."""
    head = queries.head_position(session)
    cache.start(head)
    while cache.applied() < head:
        cache.apply(queries.ledger(session, cache.applied(), 3))


@settings(max_examples=150, deadline=None)
@given(plan=actions)
def test_after_catching_up_the_cache_says_what_the_store_says_whatever_happened_before(
    scratch: Callable[[], Path], plan: list[tuple[str, tuple[str, str], str, str, int]]
) -> None:
    session = bare_session()
    delayed: list[list[LedgerEntry]] = []
    snapshots: list[tuple[Json, int]] = []
    with opened(scratch()) as cache:
        for what, (namespace, episode_id), fate, then, number in plan:
            entries = act(session, what, namespace, episode_id, number)
            if fate == "apply":
                cache.apply(entries)
            elif fate == "delay":
                delayed.append(entries)
            stored = queries.episode(session, namespace, episode_id)
            if then == "fill" and stored:
                cache.fill(stored, queries.head_position(session))
            elif then == "snapshot" and stored:
                snapshots.append((stored, queries.head_position(session)))
            elif then == "late fill" and snapshots:
                cache.fill(*snapshots.pop())
            elif then == "catch up":
                catch_up(session, cache)
            elif then == "rebuild":
                cache.rebuild()
            elif then == "late apply" and delayed:
                cache.apply(delayed.pop(number % len(delayed)))
        for entries in delayed:
            cache.apply(entries)
        for snapshot in snapshots:
            cache.fill(*snapshot)
        catch_up(session, cache)
        for namespace, episode_id in EPISODES:
            stored = queries.episode(session, namespace, episode_id)
            cached = cache.episode(namespace, episode_id)
            assert cached is None or visible(cached) == visible(stored)
            if stored is not None:
                cache.fill(stored, queries.head_position(session))
                assert visible(cache.episode(namespace, episode_id)) == visible(stored)


@settings(max_examples=80, deadline=None)
@given(plan=actions)
def test_a_cache_that_hears_of_every_commit_always_says_what_the_store_says(
    scratch: Callable[[], Path], plan: list[tuple[str, tuple[str, str], str, str, int]]
) -> None:
    session = bare_session()
    with opened(scratch()) as cache:
        for what, (namespace, episode_id), _, _, number in plan:
            cache.apply(act(session, what, namespace, episode_id, number))
            for each in EPISODES:
                assert visible(cache.episode(*each)) == visible(queries.episode(session, *each))
        assert cache.applied() == queries.head_position(session)


@settings(max_examples=80, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 4), min_size=4, max_size=12),
    order=st.randoms(use_true_random=False),
    again=st.booleans(),
)
def test_two_writers_in_any_order_never_turn_a_version_back_and_never_skip_a_gap(
    scratch: Callable[[], Path], cuts: list[int], order: Any, again: bool
) -> None:
    entries = written(create("e1"), *[add("e1") for _ in range(12)], complete("e1"), create("e2"), add("e2"))
    spans: list[list[LedgerEntry]] = []
    rest = list(entries)
    for cut in cuts:
        spans, rest = ([*spans, rest[:cut]] if rest else spans), rest[cut:]
    spans += [rest] if rest else []
    if again:
        # a follower that catches up puts what others have put already, in spans of its own
        spans += [entries[3:9], entries[:5]]
    order.shuffle(spans)
    with opened(scratch()) as cache:
        versions: dict[bytes, int] = {}
        put: set[int] = set()
        applied = 0
        for span in spans:
            cache.apply(span)
            put |= {entry.position for entry in span}
            complete_until = next(number for number in itertools.count(1) if number not in put) - 1
            assert applied <= cache.applied() <= complete_until
            applied = cache.applied()
            for name, _, _ in [each for entry in entries for each in puts_for(entry)]:
                raw = cache._files.read(lambda txn, name=name: bytes(txn.get(name) or bytes(8)))
                now = int.from_bytes(raw[:8])
                assert now >= versions.get(name, 0)
                versions[name] = now
        while cache.applied() < len(entries):
            cache.apply(entries[cache.applied() : cache.applied() + 2])
        newest: dict[bytes, int] = {}
        for name, version, _ in [each for entry in entries for each in puts_for(entry)]:
            newest[name] = max(version, newest.get(name, 0))
        assert versions | newest == newest


def test_an_older_value_does_not_replace_a_newer_one(directory: Path) -> None:
    entries = written(create("e1"), add("e1"), add("e1"))
    with opened(directory) as cache:
        cache.apply(entries[2:])
        cache.apply(entries[:2])
        found = cache.episode("default", "e1")
        assert found is not None
        assert len(found["steps"]) == 2
        assert cache.applied() == 2


def test_names_that_look_alike_when_put_together_do_not_share_an_entry(directory: Path) -> None:
    for one, other in [(("a", "bc"), ("ab", "c")), (("a\x1fb", "c"), ("a", "b\x1fc")), (("1:", "x"), ("1", ":x"))]:
        assert key(HEADER, *one) != key(HEADER, *other)
    with opened(directory) as cache:
        cache.apply(written(create("c", namespace="a\x1fb")))
        assert cache.episode("a", "b\x1fc") is None


def test_a_reading_process_keeps_no_more_decoded_values_than_it_is_told_to(directory: Path) -> None:
    with opened(directory, entries=5) as cache:
        cache.apply(written(create("e1"), add("e1", *[step()] * 50)))
        for _ in range(3):
            found = cache.episode("default", "e1")
            assert found is not None
            assert len(found["steps"]) == 50
        assert len(cache._decoded) <= 5


def test_a_directory_that_cannot_be_made_is_an_error_of_its_own_kind(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = Cache(tmp_path / "file" / "cache", STORE, BOOT)
    with pytest.raises(CacheUnavailableError):
        cache.open()
    with pytest.raises(CacheUnavailableError):
        cache.applied()
    cache.close()


def test_newest_headers_come_first_and_stay_in_their_namespace(directory: Path) -> None:
    with opened(directory) as cache:
        cache.apply(written(create("a"), create("b"), create("x", namespace="other"), complete("a")))
        assert [header["episode_id"] for header in cache.scan_headers("default", 10)] == ["a", "b"]
        assert [header["episode_id"] for header in cache.scan_headers("default", 1)] == ["a"]
        assert cache.scan_headers("nobody", 10) == []


def test_an_erased_payload_changes_nothing_in_the_cache() -> None:
    (entry,) = written(create("e1"))
    erased = LedgerEntry(**{name: getattr(entry, name) for name in entry.__slots__} | {"payload": None})
    assert puts_for(erased) == []
    assert {name[:1] for name, _, _ in puts_for(entry)} >= {HEADER, COUNT}


def test_a_value_whose_bytes_have_changed_is_never_told(directory: Path) -> None:
    with opened(directory) as cache:
        cache.apply(written(create("e1", namespace="default")))
    file = directory / "data.mdb"
    content = file.read_bytes()
    assert b"task of e1" in content
    file.write_bytes(content.replace(b"task of e1", b"lies of e1"))
    with opened(directory) as cache:
        for read in (lambda: cache.episode("default", "e1"), lambda: cache.scan_headers("default", 10)):
            with pytest.raises(CacheDamagedError):
                read()
        cache.rebuild()
        assert cache.episode("default", "e1") is None


def test_a_cache_that_was_made_anew_is_another_file_also_where_the_number_is_used_again(directory: Path) -> None:
    with opened(directory) as cache:
        seen = {cache.file}
        for _ in range(3):
            cache.rebuild()
            assert cache.file not in seen
            seen.add(cache.file)
