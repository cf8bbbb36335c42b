"""What a namespace keeps."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from memory_mcp.records.base import Record


class RetentionRule(Record):
    """Bounds on the closed episodes of a namespace; an episode beyond any of them is forgotten. None: no such bound.

    Attributes:
        max_age_days: days since the end of an episode.
        max_episodes: closed episodes, the newest ones.
        max_bytes: bytes of their content in the ledger, the newest ones.
        min_reward: the least reward of an episode that was learned from.
    """

    max_age_days: Annotated[float, Field(gt=0, le=100_000)] | None = None
    max_episodes: Annotated[int, Field(ge=0, le=10**15)] | None = None
    max_bytes: Annotated[int, Field(ge=0, le=10**18)] | None = None
    min_reward: Annotated[float, Field(allow_inf_nan=False)] | None = None
