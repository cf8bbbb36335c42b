"""The documents: what they name exists, and what they show works."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib

import pytest

from memory_mcp.evaluation.importers import FORMATS
from memory_mcp.settings import Settings
from tests.conftest import PROGRAM, in_repository

PAGES = [
    "README.md",
    "CHANGELOG.md",
    "THIRD_PARTY_NOTICES.md",
    "docs/architecture.md",
    "docs/formats.md",
    "docs/cli.md",
    "docs/backup.md",
    "docs/guarantees.md",
    "docs/history.md",
    "docs/verify.md",
]
ROOTS = ("memory_mcp/", "docs/", "scripts/", "tools/", "benchmarks/", "config/", "tests/")
PACKAGES = ("cli", "server", "services", "storage", "retrieval", "learning", "records", "evaluation")


def text_of(page: str) -> str:
    return in_repository(*page.split("/")).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_exists(page: str) -> None:
    named = re.findall(r"`([\w./-]+)`|\]\(([\w./-]+)\)", text_of(page))
    missing = []
    for quoted, linked in named:
        path = quoted or linked
        if linked:
            found = in_repository(*page.split("/")).parent.joinpath(linked)
        elif path.startswith(ROOTS):
            found = in_repository(path)
        elif "/" in path and path.split("/")[0] in PACKAGES:
            found = in_repository("memory_mcp", path)
        else:
            continue
        if not found.exists():
            missing.append(path)
    assert not missing


def test_the_blocks_for_clients_are_json_that_starts_the_server() -> None:
    blocks = re.findall(r'\{"(?:mcpServers|servers)": .*?\}\}\}', text_of("README.md"))
    assert len(blocks) == 2
    for block in blocks:
        [servers] = json.loads(block).values()
        assert servers["memory"]["args"] == ["serve"]
        assert servers["memory"]["command"].endswith("/.venv/bin/memory-mcp")


def test_every_format_of_import_is_described() -> None:
    described = text_of("docs/formats.md")
    assert [name for name in FORMATS if f"`{name}`" not in described] == []


def test_the_settings_file_shows_the_defaults() -> None:
    shown = tomllib.loads(text_of("config/default.toml"))
    defaults = Settings().model_dump(mode="json")
    assert len(shown) > 10
    assert shown == {name: defaults[name] for name in shown}


def test_every_option_of_the_program_is_described() -> None:
    described = text_of("docs/cli.md")
    for arguments in ([], ["serve"], ["import"]):
        told = subprocess.run([PROGRAM, *arguments, "--help"], capture_output=True, text=True, check=True).stdout
        options = re.findall(r"--[a-z][a-z-]*", told)
        assert options
        assert [option for option in options if option not in described] == []


@pytest.mark.parametrize(
    "page", ["README.md", "docs/backup.md", "docs/guarantees.md", "docs/history.md", "docs/verify.md"]
)
def test_every_command_that_a_page_shows_is_one(page: str) -> None:
    named = set(
        re.findall(r"memory-mcp ((?:backup|storage|history|snapshot) [a-z]+|export|forget|import)", text_of(page))
    )
    described = text_of("docs/cli.md")
    assert [name for name in sorted(named) if f"## memory-mcp {name}" not in described] == []
