"""An episode as it will be once its pending commands are carried out: what readers see while the store is out."""

from __future__ import annotations

from memory_mcp.records.base import Json
from memory_mcp.records.ledger import Command


def fold(episode: Json | None, command: Command) -> Json | None:
    """The episode after a pending command; unchanged where the command does not fit, as the replay will find too."""
    payload = command.payload
    if command.operation == "episode.create":
        if episode is not None:
            return episode
        blank = {"outcome": None, "reward": None, "reflection": None, "ended_at": None, "version": 0}
        return {**payload["episode"], **blank, "status": "open", "steps": [], "receipts": []}
    if episode is None or episode["status"] != "open":
        return episode
    if command.operation == "episode.add_steps":
        steps = list(episode["steps"])
        for draft in payload["steps"]:
            step = {**draft, "step_number": len(steps) + 1}
            steps.append({**step, "at": command.at if step.get("at") is None else step["at"]})
        return {**episode, "steps": steps}
    if command.operation == "episode.complete":
        return {**episode, "status": "completed", "outcome": payload["outcome"], "ended_at": command.at}
    return episode


def concerns(command: Command, namespace: str, episode_id: str) -> bool:
    """Whether a command writes to this episode."""
    named = command.payload.get("episode_id") or command.payload.get("episode", {}).get("episode_id")
    return command.namespace == namespace and named == episode_id
