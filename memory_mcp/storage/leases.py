"""Leases: of the processes on one data directory, one at a time leads each follower that must run once.

A lease costs no write of its own. It is taken and renewed in the transaction of the work that it protects, so an idle
machine writes nothing. Others take it over when it has expired, or at once when its owner lives no more. A leader
without work keeps it until it expires, so that work which nobody waits for is not begun by several at once; where a
caller waits, as for learning, it is given back with the last piece of work, and every process does its own.

`fence` grows by one with every change of owner. A command carries the fence under which it was prepared, and the
store refuses one with an older fence: a leader that was stopped and wakes up late cannot write any more.

What a follower does with it:

    def look(session):                          # the lease and the work, as one snapshot shows them
        return self.lead.look(session), the_work(session)

    seen, work = await store.read(look)
    turn = self.lead.turn(seen, waiting=bool(work))
    if turn is not None:
        await store.write_derived(Command(..., payload={..., "claim": turn.claim()}))

The command's handler calls `take_lease(tx, payload["claim"])`. `Upkeep` looks at the `lead` of its followers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from memory_mcp.clock import Clock
from memory_mcp.errors import ConflictError
from memory_mcp.records.base import Json
from memory_mcp.storage.engine import StoreReadOnlyError
from memory_mcp.storage.session import Session
from memory_mcp.storage.store import Store
from memory_mcp.storage.transaction import Transaction
from memory_mcp.storage.wakes import Wakes

# no lease is longer; one that claims to be was written under another clock (a container's) and says nothing
LONGEST_SECONDS = 60.0
# how often a leader is looked after while its work waits
_LOOK_SECONDS = 0.5
_MICROSECONDS = 1_000_000


class LeaseLostError(ConflictError):
    """Another process leads this follower now."""

    code = "lease_lost"


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease as the store has it. `expires_at` is in microseconds of the monotonic clock of the boot `boot_id`."""

    name: str
    owner: str = ""
    fence: int = 0
    boot_id: str = ""
    expires_at: int = 0


@dataclass(frozen=True, slots=True)
class Turn:
    """The right to work now, as far as could be seen: whether it still holds is decided when the work is written."""

    seen: Lease
    owner: str
    boot_id: str
    clock: Clock
    seconds: float

    @property
    def fence(self) -> int:
        """The fence under which the work is prepared."""
        return self.seen.fence + (self.seen.owner != self.owner)

    def claim(self, *, last: bool = False) -> Json:
        """What a command carries, for `take_lease`. One turn may be claimed for several commands; with the `last` one
        the lease is given back.
        """
        now = _micros(self.clock.monotonic())
        return {
            "name": self.seen.name,
            "owner": self.owner,
            "fence": self.fence,
            "boot_id": self.boot_id,
            "expires_at": 0 if last else now + _micros(self.seconds),
            # writing it anew with each piece of work would cost a page each time
            "renew_below": now + _micros(self.seconds / 2),
            "seen_expires_at": self.seen.expires_at,
        }


class Lead:
    """The part of one process in the leadership of one follower."""

    def __init__(self, leases: Leases, name: str) -> None:
        self.name = name
        self.look_again: float | None = None
        """Seconds after which waiting work deserves another look; None when nothing waits for anybody else."""
        self.leads = False
        """Whether this process was the leader when it looked last."""
        self._leases = leases
        self._leader = ""
        self._news = asyncio.Event()

    def look(self, session: Session) -> Lease:
        """The lease as it is. An owner that is certain to live no more is not told."""
        found = leases(session, self.name).get(self.name) or Lease(self.name)
        if self._leases.left(found) > 0 and found.owner != self._leases.owner and self._leases.wakes.gone(found.owner):
            return replace(found, owner="")
        return found

    def turn(self, seen: Lease, *, waiting: bool) -> Turn | None:
        """The right to do the work that is `waiting`; None when nothing is, another process leads, or the store can
        only be read."""
        self.leads = seen.owner == self._leases.owner
        self.look_again = None
        self._leader = ""
        if not waiting or self._leases.store.read_only:
            return None
        if seen.owner and not self.leads and self._leases.left(seen) > 0:
            self._leader = seen.owner
            self.look_again = min(_LOOK_SECONDS, self._leases.left(seen))
            return None
        self.leads = True
        return self._leases.turn(seen)

    def heard(self) -> None:
        """Somebody has committed something: whoever waits for the leader's progress looks again."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def until(self, reached: Callable[[Session], bool], step: Callable[[], Awaitable[bool]]) -> None:
        """Work, or wait for the leader to work, until the store says so.

        Raises:
            StorageUnavailableError: the store is out of order, or can only be read.
        """
        while True:
            news = self._news
            more = await step()
            if await self._leases.store.read(reached):
                return
            if self._leases.store.read_only:
                raise StoreReadOnlyError(f"{self.name} cannot go on: {self._leases.store.read_only}")
            if not more:
                if self._leader:
                    self._leases.wakes.ask(self._leader)
                await rung(news, self._leases.clock, self.look_again or _LOOK_SECONDS)
                if await self._leases.store.read(reached):
                    return


class Leases:
    """The leases of one process.

    Args:
        seconds: how long a leader that does nothing keeps its preference, and how long others wait for one that hangs.
    """

    def __init__(self, store: Store, wakes: Wakes, clock: Clock, boot_id: str, seconds: float = 3.0) -> None:
        self.store = store
        self.wakes = wakes
        self.clock = clock
        self._boot_id = boot_id
        self._seconds = seconds

    @property
    def owner(self) -> str:
        """What this process is called in leases."""
        return self.wakes.owner

    def lead(self, name: str) -> Lead:
        """This process's part in leading a follower."""
        return Lead(self, name)

    def turn(self, seen: Lease) -> Turn:
        return Turn(seen, self.owner, self._boot_id, self.clock, self._seconds)

    def left(self, lease: Lease) -> float:
        """Seconds until a lease expires; 0 when it has, or was written before this boot or under another clock."""
        seconds = (lease.expires_at - _micros(self.clock.monotonic())) / _MICROSECONDS
        return seconds if lease.boot_id == self._boot_id and 0 < seconds <= LONGEST_SECONDS else 0.0

    def leaders(self, session: Session) -> Json:
        """`{name: {owner, this_process, fence, expires_in_seconds}}` of every lease that was ever taken."""
        return {
            name: {
                "owner": lease.owner,
                "this_process": lease.owner == self.owner,
                "fence": lease.fence,
                "expires_in_seconds": round(self.left(lease), 1),
            }
            for name, lease in leases(session).items()
        }


def leases(session: Session, name: str = "") -> dict[str, Lease]:
    """Leases by name: all, or the one that is named if it was ever taken."""
    rows = session.all(
        "SELECT name, owner, fence, boot_id, expires_at FROM leases WHERE $1 IN ('', name) ORDER BY name", name
    )
    return {row[0]: Lease(*row) for row in rows}


def take_lease(tx: Transaction, claim: Json) -> None:
    """Take or renew a lease in the transaction of the work that it protects; see `Turn.claim`.

    Raises:
        LeaseLostError: another process has taken it since the work was begun, or has come back to life.
    """
    found = leases(tx.session, claim["name"]).get(claim["name"]) or Lease(claim["name"])
    if found.owner == claim["owner"] and found.fence == claim["fence"]:
        if claim["expires_at"] == found.expires_at or (
            claim["expires_at"] and found.expires_at >= claim["renew_below"]
        ):
            return
    elif found.fence != claim["fence"] - 1 or found.expires_at != claim["seen_expires_at"]:
        raise LeaseLostError(f"{found.owner} leads {claim['name']} under fence {found.fence}, not {claim['fence']}")
    tx.session.run(
        "INSERT INTO leases (name, owner, fence, boot_id, expires_at) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (name)"
        " DO UPDATE SET owner = excluded.owner, fence = excluded.fence, boot_id = excluded.boot_id,"
        " expires_at = excluded.expires_at",
        claim["name"],
        claim["owner"],
        claim["fence"],
        claim["boot_id"],
        claim["expires_at"],
    )


async def rung(bell: asyncio.Event, clock: Clock, seconds: float | None) -> None:
    """Wait for a bell, at most some seconds if they are given."""
    if seconds is None:
        await bell.wait()
        return
    waits = [asyncio.ensure_future(bell.wait()), asyncio.ensure_future(clock.sleep(seconds))]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def _micros(seconds: float) -> int:
    return round(seconds * _MICROSECONDS)
