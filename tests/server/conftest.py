"""Servers for the tests of this directory, and a gate that holds up the import of the server proper."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.wire import Wire, environment

_GATE = """
import importlib.machinery, os, sys, time

class Loader(importlib.machinery.SourceFileLoader):
    def exec_module(self, module):
        until = time.monotonic() + 30
        while not os.path.exists(os.environ["TEST_GATE"]) and time.monotonic() < until:
            time.sleep(0.005)
        super().exec_module(module)

class Gate:
    def find_spec(self, name, path=None, target=None):
        if name == "memory_mcp.server.serve":
            spec = importlib.machinery.PathFinder.find_spec(name, path)
            spec.loader = Loader(spec.loader.name, spec.loader.path)
            return spec
        return None

sys.meta_path.insert(0, Gate())
"""


class Gate:
    """Servers started in its environment get no further than the front end until it opens."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        (directory / "sitecustomize.py").write_text(_GATE)
        self._open = directory / "open"
        self._path = directory

    def environment(self, home: Path) -> dict[str, str]:
        return {**self.with_path(self._path, home), "TEST_GATE": str(self._open)}

    @staticmethod
    def with_path(directory: Path, home: Path) -> dict[str, str]:
        """An environment in which Python finds a `sitecustomize` in a directory."""
        path = os.pathsep.join(filter(None, [str(directory), os.environ.get("PYTHONPATH")]))
        return environment(home, PYTHONPATH=path)

    def open(self) -> None:
        self._open.touch()


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    """One server for the tests of a module that leave each other alone: each works on episodes of its own."""
    with Wire(tmp_path_factory.mktemp("server")) as wire:
        wire.handshake()
        yield wire
        assert wire.end() == 0
