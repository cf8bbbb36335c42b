"""numpy and what is used of scipy, imported here and nowhere else, at the first use.

Threads that import numpy at the same time can see half a module: its parts import each other, and Python breaks the
deadlock by letting one of them through. The lock of this one module keeps the second thread out until all is there.
"""

from __future__ import annotations

import os
import threading
from typing import Any

_THREADS = "OPENBLAS_NUM_THREADS"

# a product of matrix and vector gains little from a second thread, and threads that spin between two products take
# the core from database and model (measured: query_memory over 10,000 episodes, p95 34 ms with, 22 ms without them);
# the library reads this once, and children of this process need not inherit it
_given = os.environ.get(_THREADS)
os.environ[_THREADS] = _given or "1"

import numpy as np  # noqa: E402 - see above

if _given is None:
    del os.environ[_THREADS]

__all__ = ["np", "special"]

_importing = threading.Lock()


def special() -> Any:
    """The module scipy.special; whoever needs only vectors does not wait for it."""
    with _importing:
        from scipy import special as functions

    return functions
