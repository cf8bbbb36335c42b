"""numpy is imported in one place, whichever thread needs it first."""

from __future__ import annotations

import subprocess
import sys

import pytest

WATCHED = """
import sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "numpy" and "memory_mcp.numerics" not in sys.modules:
            sys.exit("numpy is imported past the lock of memory_mcp.numerics")
sys.meta_path.insert(0, Watch())
{use}
assert "numpy" in sys.modules
"""


@pytest.mark.parametrize(
    "use",
    [
        "from memory_mcp.retrieval.embedders.minilm import MiniLMEmbedder; MiniLMEmbedder()",
        "from memory_mcp.retrieval.vectors import VectorIndex; VectorIndex('model', 4)",
        "from memory_mcp.learning.evidence import beta_interval; beta_interval(1, 1, 0.5, 2.0)",
    ],
)
def test_whoever_needs_numpy_first_imports_it_behind_the_lock(use: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", WATCHED.format(use=use)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
