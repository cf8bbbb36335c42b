"""The reward of an episode: one number that orders episodes by how well they went.

    total = base · efficiency · complexity · quality + bonus

base         success 1; partial success 0.3 + 0.4 · share reached; abstained 0.2; failure 0
efficiency   √(usual / own), for steps and for time, each within 0.5..1.5, averaged; 1 while nothing is usual yet
complexity   simple or unknown 1, moderate 1.1, complex 1.2
quality      1.1 − 0.4 · share of failed steps, at least 0.7; + 0.05 for artifacts; 1 without steps
bonus        0.1 when an error was overcome; 0.05 when a shown memory was used and the task succeeded

Everything but `base` is positive and independent of the outcome, except the last bonus, which only success earns: so
of two episodes that differ in nothing but the outcome the better outcome never has the smaller reward.
"""

from __future__ import annotations

import math

from memory_mcp.learning.history import Usual
from memory_mcp.records.base import Json
from memory_mcp.records.episode import Episode, Outcome

_COMPLEXITY = {None: 1.0, "simple": 1.0, "moderate": 1.1, "complex": 1.2}


def reward(episode: Episode, usual: Usual | None, *, memory_used: bool) -> Json:
    """All components of the reward of a completed episode, rounded to four digits."""
    assert episode.outcome is not None
    base = base_reward(episode.outcome)
    efficiency = _efficiency(episode, usual)
    complexity = _COMPLEXITY[episode.context.complexity]
    quality = _quality(episode)
    bonus = 0.1 * _overcame_an_error(episode) + 0.05 * (memory_used and episode.outcome.type == "success")
    return {
        "total": round(base * efficiency * complexity * quality + bonus, 4),
        "base": round(base, 4),
        "efficiency": round(efficiency, 4),
        "complexity": complexity,
        "quality": round(quality, 4),
        "bonus": round(bonus, 4),
    }


def base_reward(outcome: Outcome) -> float:
    """The outcome's own worth."""
    if outcome.type == "partial_success":
        assert outcome.value is not None
        return 0.3 + 0.4 * outcome.value
    return {"success": 1.0, "abstained": 0.2, "failure": 0.0}[outcome.type]


def _efficiency(episode: Episode, usual: Usual | None) -> float:
    if usual is None:
        return 1.0
    ratios = []
    if usual.steps:
        ratios.append(usual.steps / max(1, len(episode.steps)))
    seconds = episode.duration_seconds
    if usual.seconds and seconds:
        ratios.append(usual.seconds / seconds)
    parts = [min(1.5, max(0.5, math.sqrt(ratio))) for ratio in ratios]
    return sum(parts) / len(parts) if parts else 1.0


def _quality(episode: Episode) -> float:
    assert episode.outcome is not None
    extra = 0.05 if episode.outcome.artifacts else 0.0
    if not episode.steps:
        return 1.0 + extra
    failed = sum(not step.result.ok for step in episode.steps) / len(episode.steps)
    return max(0.7, 1.1 - 0.4 * failed) + extra


def _overcame_an_error(episode: Episode) -> bool:
    """Whether a tool that had failed worked later on."""
    failed: set[str] = set()
    for step in episode.steps:
        if step.result.ok and step.tool in failed:
            return True
        if not step.result.ok:
            failed.add(step.tool)
    return False
