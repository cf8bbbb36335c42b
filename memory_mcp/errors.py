"""Every error that this package raises on purpose.

    MemoryMCPError                       .code
    ├── InvalidInputError                invalid_argument
    │   ├── UnknownArgumentError         unknown_argument
    │   ├── InvalidTextError             invalid_text
    │   └── TooLargeError                too_large
    ├── NotFoundError                    not_found
    │   ├── EpisodeNotFoundError         episode_not_found
    │   ├── EntryNotFoundError           entry_not_found
    │   ├── SnapshotNotFoundError        snapshot_not_found
    │   ├── BeyondRecallError            beyond_recall
    │   └── UnknownToolError             unknown_tool
    ├── ConflictError                    conflict
    │   ├── EpisodeClosedError           episode_closed
    │   ├── EpisodeExistsError           episode_exists
    │   ├── SnapshotExistsError          snapshot_exists
    │   ├── LaterChangesError            later_changes
    │   ├── NotUndoableError             not_undoable
    │   └── StepConflictError            step_conflict
    ├── StorageError                     storage_error
    │   ├── StorageUnavailableError      storage_unavailable
    │   │   └── StoreCorruptError        store_corrupt
    │   ├── SchemaTooNewError            schema_too_new
    │   ├── CheckpointError              checkpoint_error
    │   ├── StoreInUseError              store_in_use
    │   ├── NetworkFileSystemError       network_file_system
    │   ├── MigrationRefusedError        migration_refused
    │   ├── BackupError                  backup_failed
    │   │   ├── BackupNotFoundError      backup_not_found
    │   │   └── BackupDamagedError       backup_damaged
    │   ├── RestoreRefusedError          restore_refused
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


class EntryNotFoundError(NotFoundError):
    """The ledger has no entry at this position in this namespace."""

    code = "entry_not_found"
    default_hint = "`memory-mcp history list` shows the entries with their positions."


class SnapshotNotFoundError(NotFoundError):
    """No snapshot has this name in this namespace."""

    code = "snapshot_not_found"
    default_hint = "`memory-mcp snapshot list` shows the snapshots."


class BeyondRecallError(NotFoundError):
    """A state that is asked for was erased when something was forgotten."""

    code = "beyond_recall"
    default_hint = "What was forgotten cannot be brought back; a backup made before may still hold it."


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


class SnapshotExistsError(ConflictError):
    """A snapshot of this name exists already in this namespace."""

    code = "snapshot_exists"
    default_hint = "Choose another name."


class LaterChangesError(ConflictError):
    """An operation cannot be undone because what it changed was changed again."""

    code = "later_changes"
    default_hint = "Undo the later changes first, the newest first, or roll back to a snapshot."


class NotUndoableError(ConflictError):
    """An operation that cannot be undone by itself."""

    code = "not_undoable"
    default_hint = "What was learned goes with its episode: undo the completion. What was forgotten is gone."


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
        "Run `memory-mcp storage verify` to see what is damaged; then `memory-mcp backup restore` puts a backup back,"
        " or `memory-mcp storage salvage` makes a new store of all that can still be read. Writes that were accepted as"
        " pending are carried out afterwards."
    )


class SchemaTooNewError(StorageError):
    """The data directory was written by a newer version of memory-mcp."""

    code = "schema_too_new"
    default_hint = "Upgrade memory-mcp, or use another --data-dir."


class CheckpointError(StorageError):
    """A checkpoint or a key that cannot be read, written or used."""

    code = "checkpoint_error"


class StoreInUseError(StorageError):
    """Other processes have the store open, or hold it too long, for what was asked."""

    code = "store_in_use"
    default_hint = "End the memory-mcp processes that use this data directory, and repeat the command."


class NetworkFileSystemError(StorageError):
    """The data directory lies on a network file system, where neither locks nor shared memory can be relied on."""

    code = "network_file_system"
    default_hint = (
        "Choose a --data-dir on a local disk; allow_network_file_system=true overrides this at your own risk."
    )


class MigrationRefusedError(StorageError):
    """A store of an older version is left as it is: no copy of it could be saved first, or it cannot be written."""

    code = "migration_refused"
    default_hint = "Make room in the data directory's backups folder, and start again; the store was not changed."


class BackupError(StorageError):
    """A backup could not be made or read."""

    code = "backup_failed"
    default_hint = "Nothing was left behind; earlier backups are as they were."


class BackupNotFoundError(BackupError):
    """No complete backup has this name, and no directory with this path is one."""

    code = "backup_not_found"
    default_hint = "See `memory-mcp backup list` for the names."


class BackupDamagedError(BackupError):
    """A backup does not hold what its manifest says."""

    code = "backup_damaged"
    default_hint = (
        "Nothing was restored. Choose another backup; `memory-mcp backup verify --all` tells which are whole."
    )


class RestoreRefusedError(StorageError):
    """The data directory holds a store that a restore would replace."""

    code = "restore_refused"
    default_hint = "With --force it is replaced; a copy of it is saved first."


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
