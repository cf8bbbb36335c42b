"""Servers that are killed while clients write: the short form of `benchmarks/durability.py kills`."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest
from sqlcipher3 import dbapi2 as sqlite

from tests.durability.audit import all_episodes, audit, reading
from tests.durability.killing import Run

KILLS = 25

pytestmark = pytest.mark.skipif(os.name != "posix", reason="only POSIX kills without a warning")


async def test_of_all_that_was_acknowledged_nothing_is_lost_when_servers_are_killed(tmp_path: Path) -> None:
    run = Run(tmp_path)
    figures = await run.run(KILLS)
    assert figures["problems"] == []
    assert figures["kills"] >= KILLS
    assert figures["found"] == figures["acknowledged"] > KILLS
    assert figures["restarts"] >= KILLS
    assert figures["cached"] > 0
    # and the same eyes see it when one acknowledged step is taken away
    with closing(sqlite.connect(str(run.data_dir / "memory.db"))) as connection:
        connection.execute("DELETE FROM steps WHERE rowid = (SELECT max(rowid) FROM steps)")
        connection.commit()
    with reading(run.data_dir) as session:
        problems, after = run.book.compare(all_episodes(session))
    # a call that was in flight and is half there is told twice
    assert 1 <= len(problems) <= 2
    assert "lost" in problems[0] or "missing" in problems[0]
    assert after["found"] + after["in_flight_found"] < figures["found"] + figures["in_flight_found"]
    assert any("are not the" in problem for problem in audit(run.data_dir).problems)
