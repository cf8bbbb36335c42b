"""Installed size of the default install: a fresh environment, plain pip, nothing but the project."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT


def run() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        venv.create(directory, with_pip=True)
        python = Path(directory) / "bin" / "python"
        before = _megabytes(Path(directory))
        started = time.perf_counter()
        subprocess.run(
            [str(python), "-m", "pip", "--disable-pip-version-check", "install", "-qq", str(ROOT)],
            check=True,
            stdout=sys.stderr,
        )
        seconds = time.perf_counter() - started
        size = _megabytes(Path(directory)) - before
        torch = subprocess.run([str(python), "-c", "import torch"], capture_output=True, check=False).returncode == 0
    return {
        "installed_mb": round(size),
        "seconds": round(seconds, 1),
        "torch_installed": torch,
        "targets": {"<= 900 MB": size <= 900, "no torch": not torch},
    }


def _megabytes(directory: Path) -> float:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file() and not path.is_symlink()) / 1e6
