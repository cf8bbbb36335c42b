"""numpy and what is used of scipy, imported here and nowhere else, at the first use.

Threads that import numpy at the same time can see half a module: its parts import each other, and Python breaks the
deadlock by letting one of them through. The lock of this one module keeps the second thread out until all is there.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

__all__ = ["np", "special"]

_importing = threading.Lock()


def special() -> Any:
    """The module scipy.special; whoever needs only vectors does not wait for it."""
    with _importing:
        from scipy import special as functions

    return functions
