"""A client that writes episodes through the real door, over as many server processes as get killed under it."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from tests.conftest import PATIENCE, PROGRAM
from tests.durability import book
from tests.durability.book import Call, Entry, State

if TYPE_CHECKING:
    from tests.durability.killing import Run

Json = dict[str, Any]

# the shell tells its own number, which stays that of the program that takes its place
_START = 'echo $$ > "$0"; exec "$@"'
# a shared episode is given up in time to be read in one piece
_MOST_CALLS = 40
_REFUSALS = ("episode_closed",)


class Writer:
    """One of the clients. It keeps what it wrote in the book of its run.

    Args:
        arguments: for every server process that it starts.
    """

    def __init__(self, run: Run, number: int, *arguments: str) -> None:
        self.name = f"w{number}"
        self.starts = 0
        self.killed = False
        self.connected = asyncio.Event()
        self.resting = asyncio.Event()
        self.completing = asyncio.Event()
        self.client: Client | None = None
        self._run = run
        self._arguments = arguments
        self._rng = random.Random(f"{run.seed}.{number}")
        self._calls = 0
        self._own: list[Entry] = []

    @property
    def pid_file(self) -> Path:
        return self._run.scratch / f"{self.name}.{self.starts}.pid"

    async def pid(self) -> int:
        """The process of this client's server, as soon as there is one."""
        async with asyncio.timeout(PATIENCE):
            while True:
                with suppress(FileNotFoundError):
                    if (text := self.pid_file.read_text(encoding="ascii")).endswith("\n"):
                        return int(text)
                await asyncio.sleep(0.001)

    async def kill(self) -> None:
        """Kill the server process, whatever it does."""
        pid = await self.pid()
        self.killed = True
        self.connected.clear()
        os.kill(pid, signal.SIGKILL)

    async def live(self) -> None:
        """Write until the run is over; connect anew whenever the server was killed."""
        while not self._run.over:
            self.starts += 1
            self.killed = False
            try:
                await self._session()
            except Exception:
                if not self.killed:
                    raise
            finally:
                self.client = None
                self.connected.clear()

    async def _session(self) -> None:
        data = ("--data-dir", str(self._run.data_dir))
        parameters = StdioServerParameters(
            command="/bin/sh",
            args=["-c", _START, str(self.pid_file), str(PROGRAM), "serve", *data, *self._arguments],
            env={**os.environ, **self._run.environment},
        )
        with (self._run.scratch / "stderr.txt").open("a") as errors:
            async with Client(stdio_client(parameters, errors)) as client:
                self.client = client
                self.connected.set()
                while not self._run.over:
                    await self._rest()
                    if not self._run.over:
                        await self._work()

    async def _rest(self) -> None:
        if not self._run.going.is_set():
            self.resting.set()
            await self._run.going.wait()
            self.resting.clear()

    async def _work(self) -> None:
        """One thing, or a few at once, so that their commits share a transaction."""
        several = [self._something() for _ in range(self._rng.choice((1, 1, 2, 4)))]
        # all of them, so that none is still under way when the next session begins
        answers = await asyncio.gather(*several, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer

    def _something(self) -> Awaitable[None]:
        self._own = [entry for entry in self._own if not entry.closing]
        chance = self._rng.random()
        if chance < 0.2:
            shared = self._run.shared()
            if shared is not None:
                return self._end(shared) if len(shared.calls) > _MOST_CALLS else self._add(shared)
        if not self._own or chance > 0.85:
            return self._begin()
        entry = self._rng.choice(self._own)
        if len(entry.calls) >= self._rng.randint(2, 6):
            return self._end(entry)
        return self._add(entry)

    async def _begin(self) -> None:
        entry = Entry(Call("create", self._name()))
        self._run.book.entries.append(entry)
        answer = await self._call(entry.create, "create_episode", **entry.task)
        if answer is not None:
            entry.episode_id = answer["episode_id"]
            self._own.append(entry)
            if self._rng.random() < 0.1:
                self._run.share(entry)

    async def _add(self, entry: Entry) -> None:
        call = Call("steps", self._name(), self._rng.choice((1, 1, 1, 3, 10)))
        entry.calls.append(call)
        steps = call.steps()
        sent = {"steps": steps} if call.parts > 1 else steps[0]
        answer = await self._call(call, "add_episode_step", episode_id=entry.episode_id, **sent)
        if answer is not None:
            call.numbers = answer.get("step_numbers", [])

    async def _end(self, entry: Entry) -> None:
        call = Call("complete", self._name())
        entry.calls.append(call)
        told = book.outcome(call.name)
        self.completing.set()
        arguments = {"outcome_type": told["type"], "verdict": told["verdict"]}
        await self._call(call, "complete_episode", episode_id=entry.episode_id, **arguments)

    async def _call(self, call: Call, tool: str, /, **arguments: Any) -> Json | None:
        """Call a tool and note what became of it; None if it was refused, as it may be."""
        assert self.client is not None
        started = time.perf_counter()
        async with asyncio.timeout(PATIENCE):
            result = await self.client.call_tool(tool, arguments)
        self._run.longest = max(self._run.longest, time.perf_counter() - started)
        answer = dict(result.structured_content or {})
        if result.is_error:
            call.state = State.REFUSED
            if answer.get("code") not in _REFUSALS:
                self._run.problems.append(f"{call.name}: {tool} was refused: {answer or result.content}")
            return None
        call.state = State.ACKNOWLEDGED
        self._run.pending += bool(answer.get("pending"))
        return answer

    def _name(self) -> str:
        self._calls += 1
        return f"{self.name}-{self._calls}"
