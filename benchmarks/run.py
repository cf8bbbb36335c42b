"""Runs benchmarks and writes their figures: `scripts/bench [NAME…]`."""

from __future__ import annotations

import json
import sys
import time
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

NAMES = ["startup", "steps", "roundtrip", "importing", "embedder", "size", "workbench", "durability"]


def main() -> int:
    """Run the named benchmarks, or all; the exit code tells whether all targets were met."""
    from benchmarks.common import manifest

    names = sys.argv[1:] or NAMES
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        print(f"unknown: {', '.join(unknown)}; there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    out = ROOT / "out"
    out.mkdir(exist_ok=True)
    missed = 0
    for name in names:
        started = time.perf_counter()
        figures = import_module(f"benchmarks.{name}").run()
        told = {"benchmark": name, "manifest": manifest(), "took_s": round(time.perf_counter() - started, 1), **figures}
        (out / f"bench-{name}.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
        print(json.dumps(told, indent=1))
        missed += sum(not met for met in figures.get("targets", {}).values())
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
