"""memory-mcp: an episodic memory for AI agents that learns from outcomes.

    async with Memory(load_settings(data_dir=path)) as memory:
        started = await memory.episodes.create(EpisodeDraft(task_description="…"), "default")

Names are imported when they are first used: the command line must answer before anything heavy is loaded.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memory_mcp.errors import MemoryMCPError as MemoryMCPError
    from memory_mcp.memory import Memory as Memory
    from memory_mcp.records.episode import Episode as Episode
    from memory_mcp.records.episode import EpisodeDraft as EpisodeDraft
    from memory_mcp.records.episode import ImportedEpisode as ImportedEpisode
    from memory_mcp.records.episode import Outcome as Outcome
    from memory_mcp.records.episode import Step as Step
    from memory_mcp.records.episode import StepDraft as StepDraft
    from memory_mcp.records.episode import StepResult as StepResult
    from memory_mcp.retrieval.lexical import Filter as Filter
    from memory_mcp.retrieval.search import Query as Query
    from memory_mcp.settings import Settings as Settings
    from memory_mcp.settings import load_settings as load_settings

__version__ = "0.1.0"

_HOMES = {
    "Episode": "memory_mcp.records.episode",
    "EpisodeDraft": "memory_mcp.records.episode",
    "Filter": "memory_mcp.retrieval.lexical",
    "ImportedEpisode": "memory_mcp.records.episode",
    "Memory": "memory_mcp.memory",
    "MemoryMCPError": "memory_mcp.errors",
    "Outcome": "memory_mcp.records.episode",
    "Query": "memory_mcp.retrieval.search",
    "Settings": "memory_mcp.settings",
    "Step": "memory_mcp.records.episode",
    "StepDraft": "memory_mcp.records.episode",
    "StepResult": "memory_mcp.records.episode",
    "load_settings": "memory_mcp.settings",
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
