"""What is promised about durability, measured: `python -m benchmarks.durability --help`, or `scripts/bench durability`.

Each section prints its figures; together they are one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.common import manifest
from benchmarks.durable import amplification, backup, kills, recovery, soak, throughput, visibility

SECTIONS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "kills": lambda given: kills.run(given.kills, given.seed),
    "throughput": lambda given: throughput.run(given.clients, given.seconds),
    "visibility": lambda given: visibility.run(given.idle),
    "recovery": lambda given: recovery.run(given.episodes, given.runs),
    "backup": lambda given: backup.run(max(given.episodes), given.seconds),
    "amplification": lambda given: amplification.run(given.seconds),
    "soak": lambda given: soak.run(given.soak, given.every, given.env),
}


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


class _Variables(argparse.Action):
    """Gathers NAME=VALUE."""

    def __call__(self, parser: Any, given: argparse.Namespace, value: Any, option: str | None = None) -> None:
        name, equals, content = value.partition("=")
        if not equals:
            parser.error(f"{value}: is not NAME=VALUE")
        given.env = {**given.env, name: content}


def options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.durability")
    parser.add_argument("sections", nargs="*", help=f"some of: {', '.join(SECTIONS)}; none: all")
    parser.add_argument("--kills", type=int, default=500, help="kills: how often")
    parser.add_argument("--seed", type=int, default=0, help="kills: another row of choices")
    parser.add_argument("--clients", type=_numbers, default=[1, 8, 32], help="throughput: numbers of clients")
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="throughput, backup, amplification: for each figure"
    )
    parser.add_argument("--idle", type=float, default=10.0, help="visibility: seconds of watching idle servers")
    parser.add_argument("--episodes", type=_numbers, default=[10_000, 100_000], help="recovery; backup: the largest")
    parser.add_argument("--runs", type=int, default=5, help="recovery: of each kind")
    parser.add_argument("--soak", type=float, default=600.0, help="soak: seconds")
    parser.add_argument("--every", type=float, default=10.0, help="soak: seconds between samples")
    parser.add_argument("--env", action=_Variables, default={}, metavar="NAME=VALUE", help="soak: for the servers")
    given = parser.parse_args(arguments)
    unknown = [name for name in given.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    return given


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """The figures of the sections that were named, or of all, and whether their targets were met."""
    told: dict[str, Any] = {}
    targets: dict[str, bool] = {}
    for name in given.sections or SECTIONS:
        started = time.perf_counter()
        figures = SECTIONS[name](given)
        targets |= {f"{name}: {target}": met for target, met in figures.pop("targets", {}).items()}
        told[name] = {**figures, "took_s": round(time.perf_counter() - started, 1)}
        print(json.dumps({name: told[name]}), file=sys.stderr)
    return {**told, "targets": targets}


def run() -> dict[str, Any]:
    """Everything, in the long form."""
    return measure(options([]))


def main() -> int:
    figures = measure(options(sys.argv[1:]))
    print(json.dumps({"benchmark": "durability", "manifest": manifest(), **figures}, indent=1))
    return 0 if all(figures["targets"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
