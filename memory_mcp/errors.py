"""Every error that this package raises on purpose.

    MemoryMCPError                       .code
    ├── InvalidInputError                invalid_argument
    │   ├── UnknownArgumentError         unknown_argument
    │   ├── InvalidTextError             invalid_text
    │   └── TooLargeError                too_large
    ├── NotFoundError                    not_found
    │   ├── EpisodeNotFoundError         episode_not_found
    │   └── UnknownToolError             unknown_tool
    ├── ConflictError                    conflict
    │   ├── EpisodeClosedError           episode_closed
    │   ├── EpisodeExistsError           episode_exists
    │   └── StepConflictError            step_conflict
    ├── StorageError                     storage_error
    │   ├── StorageUnavailableError      storage_unavailable
    │   │   └── StoreCorruptError        store_corrupt
    │   ├── SchemaTooNewError            schema_too_new
    │   └── CacheUnavailableError        cache_unavailable
    ├── EmbedderError                    embedder_error
    ├── ImportFormatError                import_format
    ├── SettingsError                    invalid_settings
    └── InternalError                    internal_error

`code` is stable: programs may depend on it. `message` says what is wrong in one sentence, `hint` what to do
about it; both are written for an agent or a person and may change.
"""

from __future__ import annotations

from typing import ClassVar


class MemoryMCPError(Exception):
    """Base of all errors raised on purpose."""

    code: ClassVar[str] = "error"
    default_hint: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.default_hint

    def as_dict(self) -> dict[str, str]:
        """`{code, message, hint}`: what every door shows."""
        return {"code": self.code, "message": self.message, "hint": self.hint}


class InvalidInputError(MemoryMCPError):
    """An argument has the wrong type or lies outside its range."""

    code = "invalid_argument"
    default_hint = "Correct the named argument and call again; nothing was written."


class UnknownArgumentError(InvalidInputError):
    """An argument that the tool does not have."""

    code = "unknown_argument"


class InvalidTextError(InvalidInputError):
    """Text that cannot be stored: a NUL character or a lone surrogate."""

    code = "invalid_text"
    default_hint = (
        "Remove NUL characters and unpaired surrogates (\\ud800 to \\udfff) from the text; nothing was written."
    )


class TooLargeError(InvalidInputError):
    """A value over its documented limit. Nothing is ever cut silently."""

    code = "too_large"
    default_hint = "Shorten the value, or split it over several steps; nothing was written."


class NotFoundError(MemoryMCPError):
    """Something was named that does not exist."""

    code = "not_found"


class EpisodeNotFoundError(NotFoundError):
    """No episode has this id in this namespace."""

    code = "episode_not_found"
    default_hint = "Use the episode_id that create_episode returned, or find one with query_memory."


class UnknownToolError(NotFoundError):
    """No tool has this name."""

    code = "unknown_tool"


class ConflictError(MemoryMCPError):
    """The write contradicts what is already stored."""

    code = "conflict"


class EpisodeClosedError(ConflictError):
    """A step or a completion for an episode that is no longer open."""

    code = "episode_closed"
    default_hint = "A completed episode does not change any more; start a new one with create_episode."


class EpisodeExistsError(ConflictError):
    """An episode with this id is stored already."""

    code = "episode_exists"


class StepConflictError(ConflictError):
    """A step number that is taken or leaves a gap."""

    code = "step_conflict"
    default_hint = "Leave step_number out: the server numbers the steps."


class StorageError(MemoryMCPError):
    """The store could not do its work."""

    code = "storage_error"


class StorageUnavailableError(StorageError):
    """Neither the store nor the pending journal could take the write, or no copy is there to be read."""

    code = "storage_unavailable"
    default_hint = "Call health_check; nothing was written, so the call can be repeated."


class StoreCorruptError(StorageUnavailableError):
    """The database file is damaged or is not a memory-mcp database."""

    code = "store_corrupt"
    default_hint = (
        "Run `memory-mcp storage verify` to see what is damaged, and put back a backup with"
        " `memory-mcp backup restore`; writes that were accepted as pending are carried out afterwards."
    )


class SchemaTooNewError(StorageError):
    """The data directory was written by a newer version of memory-mcp."""

    code = "schema_too_new"
    default_hint = "Upgrade memory-mcp, or use another --data-dir."


class CacheUnavailableError(StorageError):
    """The cache failed; callers fall back to the store."""

    code = "cache_unavailable"


class EmbedderError(MemoryMCPError):
    """The embedding model is missing or failed."""

    code = "embedder_error"


class ImportFormatError(MemoryMCPError):
    """A file or a line that does not have the announced format."""

    code = "import_format"


class SettingsError(MemoryMCPError):
    """A setting with a value that cannot be used."""

    code = "invalid_settings"


class InternalError(MemoryMCPError):
    """A defect of this program; the details are in its log."""

    code = "internal_error"
    default_hint = "This is a defect of memory-mcp: see its log, and report it."
