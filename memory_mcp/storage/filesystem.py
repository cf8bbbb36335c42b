"""Which file system a directory lies on: a database that several processes share does not belong on a network."""

from __future__ import annotations

import os
import re
from pathlib import Path

from memory_mcp.errors import NetworkFileSystemError

MOUNTINFO = Path("/proc/self/mountinfo")

# No 9p and no virtiofs: they are how WSL, sandboxes and virtual machines show a directory of the same machine, where
# locks work between all who see it. Over a real network, which is rare, they cannot be told apart from that.
NETWORK = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb",
        "smb2",
        "smb3",
        "smbfs",
        "afs",
        "auristorfs",
        "coda",
        "ncpfs",
        "ceph",
        "lustre",
        "gpfs",
        "beegfs",
        "pvfs2",
        "orangefs",
        "gfs",
        "gfs2",
        "ocfs2",
        "davfs",
        "glusterfs",
    }
)
_NETWORK_FUSE = frozenset(
    {
        *NETWORK,
        "sshfs",
        "s3fs",
        "rclone",
        "goofys",
        "gcsfuse",
        "blobfuse",
        "blobfuse2",
        "juicefs",
        "curlftpfs",
        "ceph-fuse",
        "moosefs",
        "mfs",
        "hdfs",
        "gvfsd-fuse",
        "google-drive-ocamlfuse",
        "dropbox",
    }
)
_OCTAL = re.compile(r"\\([0-7]{3})")


def type_of(directory: Path, mountinfo: str) -> str:
    """The type of the file system at an absolute path without links, as `proc_pid_mountinfo(5)` tells it.

    Empty where no line fits. Of mounts at the same place the last one covers the others.
    """
    best, kind = -1, ""
    for line in mountinfo.splitlines():
        before, separator, behind = line.partition(" - ")
        fields, rest = before.split(" "), behind.split(" ")
        if not separator or len(fields) < 5 or not rest[0]:
            continue
        point = Path(_OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4]))
        if directory.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), rest[0]
    return kind


def is_network(kind: str) -> bool:
    """Whether files of this type of file system lie on another machine."""
    name, _, driver = kind.partition(".")
    return driver in _NETWORK_FUSE if name in ("fuse", "fuseblk") and driver else kind in NETWORK


def refuse_network(directory: Path) -> None:
    """Refuse a directory on a network. Where the platform does not tell its mounts, every directory passes.

    Raises:
        NetworkFileSystemError
    """
    if os.name == "nt" and str(directory.resolve()).startswith("\\\\"):
        raise NetworkFileSystemError(f"the data directory {directory} is a network share")
    try:
        # names are bytes in the kernel
        told = MOUNTINFO.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return
    kind = type_of(directory.resolve(), told)
    if is_network(kind):
        raise NetworkFileSystemError(f"the data directory {directory} lies on a network file system ({kind})")
