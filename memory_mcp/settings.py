"""Settings: flags, then environment (`MEMORY_MCP_…`), then the configuration file, then these defaults."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from memory_mcp.errors import SettingsError
from memory_mcp.records.retention import RetentionRule

APPLICATION = "memory-mcp"
PREFIX = "MEMORY_MCP_"


def default_data_dir() -> Path:
    """The platform's place for a user's data."""
    return Path(platformdirs.user_data_dir(APPLICATION, appauthor=False))


def default_cache_dir() -> Path:
    """The platform's place for what can be made again."""
    return Path(platformdirs.user_cache_dir(APPLICATION, appauthor=False))


def _some_path(value: Any) -> Any:
    # a variable that a host did not fill in must not turn into the directory it happens to run in
    if isinstance(value, str) and not value.strip():
        raise ValueError("must not be empty")
    return value


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


Directory = Annotated[Path, BeforeValidator(_some_path), AfterValidator(Path.expanduser)]


class Settings(BaseSettings):
    """All settings of a process; `docs/settings.md` is made from these fields."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, env_ignore_empty=True)

    data_dir: Directory = Field(default_factory=default_data_dir, description="Directory of database, cache and logs.")
    cache_dir: Directory = Field(
        default_factory=default_cache_dir,
        description="Directory of what can be made again, such as the start-up cache.",
    )
    namespace: Annotated[str, Field(min_length=1, max_length=200)] = Field(
        default="default", description="Namespace of calls that name none; namespaces do not see each other."
    )
    actor: Annotated[str, Field(max_length=200)] = Field(
        default="", description="Who writes, as noted in the ledger, for calls that do not say."
    )
    embedder: Literal["minilm", "sentence-transformers", "none"] = Field(
        default="minilm",
        description="What makes texts comparable by meaning: the built-in model, any local sentence-transformers model"
        " (extra `memory-mcp[sentence-transformers]`), or nothing (words alone).",
    )
    embedding_model: str = Field(default="", description="Name or path of the sentence-transformers model.")
    token_budget: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        default=2_000,
        description="Tokens that an answer of a reading tool may take if the call names none; 0: no limit.",
    )
    guidance_tokens: Annotated[int, Field(ge=0, le=100_000)] = Field(
        default=800, description="Tokens that the guidance in the answer of create_episode may take."
    )
    fast_start: bool = Field(
        default=True, description="Answer the handshake from a cached copy while the rest is being loaded."
    )
    synchronous: Annotated[Literal["FULL", "NORMAL"], BeforeValidator(_upper)] = Field(
        default="FULL",
        description="FULL: what was acknowledged survives a power cut. NORMAL: faster; a power cut may take the last"
        " moments, a crash of the program nothing.",
    )
    allow_network_file_system: bool = Field(
        default=False,
        description="Use a data directory on a network file system all the same, at your own risk: locks that do not"
        " hold there damage the database.",
    )
    backup_hours: Annotated[float, Field(ge=0, le=8_760)] = Field(
        default=0.0, description="Hours between the backups that the server makes by itself; 0: none."
    )
    backup_keep: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=7, description="How many backups stay when the server has made one; those made by hand count too."
    )
    lock_seconds: Annotated[float, Field(gt=0, le=600)] = Field(
        default=5.0, description="How long a write waits for its turn between processes before SQLite decides."
    )
    busy_seconds: Annotated[float, Field(gt=0, le=600)] = Field(
        default=5.0, description="How long SQLite waits for a lock before the call counts as failed."
    )
    retry_attempts: Annotated[int, Field(ge=1, le=20)] = Field(
        default=3, description="Calls of the store, with growing pauses, before they count as one failure."
    )
    breaker_failures: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=5, description="Failures in a row that open a circuit breaker."
    )
    breaker_reset_seconds: Annotated[float, Field(gt=0, le=3600)] = Field(
        default=30.0, description="How long a circuit breaker stays open before a trial."
    )
    sync_seconds: Annotated[float, Field(gt=0, le=86_400)] = Field(
        default=300.0, description="How often the cache is compared with the ledger even if nothing seems to happen."
    )
    poll_seconds: Annotated[float, Field(gt=0, le=60)] = Field(
        default=0.25,
        description="How often a process looks for writes that other processes have not told it of; where they can tell"
        " it, once in a second is enough.",
    )
    lease_seconds: Annotated[float, Field(ge=0.1, le=60)] = Field(
        default=3.0,
        description="How long work that one process at a time may do is left to the one that did it last, and how long"
        " the others wait for one that hangs; one that has died is replaced at once.",
    )
    cache_entries: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=4_096, description="Decoded values of the cache that a process keeps."
    )
    retention: dict[Annotated[str, Field(min_length=1, max_length=200)], RetentionRule] = Field(
        default={},
        description="What each namespace keeps: bounds `max_age_days`, `max_episodes`, `max_bytes` and `min_reward` by"
        " namespace, by `team/*`, or by `*` for all others. What lies beyond a bound is forgotten; open episodes never"
        " are.",
    )
    retention_seconds: Annotated[float, Field(gt=0, le=604_800)] = Field(
        default=3_600.0, description="How often the rules of retention are applied."
    )
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_upper)] = Field(
        default="WARNING", description="Least level of what is logged to stderr and to the log file."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        file = os.environ.get(f"{PREFIX}CONFIG")
        sources: tuple[PydanticBaseSettingsSource, ...] = (init_settings, env_settings)
        return (*sources, TomlConfigSettingsSource(settings_cls, Path(file))) if file else sources


def load_settings(**flags: Any) -> Settings:
    """The settings of this process; flags that are None are left to the other sources.

    Raises:
        SettingsError: a value cannot be used, or the file named by MEMORY_MCP_CONFIG cannot be read.
    """
    file = os.environ.get(f"{PREFIX}CONFIG")
    if file and not Path(file).is_file():
        raise SettingsError(f"{PREFIX}CONFIG names {file}, which is not a file")
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)
        raise SettingsError(
            "; ".join(_sentence(problem) for problem in problems), hint="See docs/settings.md for names and ranges."
        ) from None
    except (OSError, ValueError) as error:
        raise SettingsError(f"cannot read {file}: {error}" if file else str(error)) from error


def _sentence(problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, Settings.model_fields, n=1)
        return f"{name}: there is no such setting" + (f", did you mean {near[0]}?" if near else "")
    message = problem["msg"].removeprefix("Value error, ")
    return f"{name}: {message[0].lower()}{message[1:]}"
