"""Network file systems: told by the mounts of the machine, and refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from memory_mcp.errors import NetworkFileSystemError
from memory_mcp.memory import Memory
from memory_mcp.settings import Settings
from memory_mcp.storage import filesystem
from memory_mcp.storage.filesystem import is_network, type_of
from tests.services.support import start

# lines as kernels write them: optional fields none, one and two; blanks and backslashes in octal; mounts over mounts
MOUNTS = r"""
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro
24 22 0:22 / /proc rw,nosuid,nodev,noexec,relatime shared:13 - proc proc rw
31 22 0:27 / /run/user/1000 rw,nosuid,nodev shared:250 master:7 - tmpfs tmpfs rw,size=1629848k,mode=700
36 22 0:46 / /home rw,relatime - nfs4 server:/export/home rw,vers=4.2,rsize=1048576,hard,proto=tcp
37 36 254:2 / /home/local rw,relatime shared:30 - xfs /dev/vdb rw,attr2
40 22 0:50 / /mnt/team\040share rw,relatime shared:40 - cifs //files/team rw,vers=3.1.1
41 22 0:51 / /mnt/back\134slash rw,relatime - fuse.sshfs me@host:/data rw,user_id=0
42 22 0:52 / /mnt/c rw,noatime - 9p C:\134 rw,dirsync,aname=drvfs
43 22 0:53 / /mnt/twice rw - nfs server:/a rw
44 43 254:3 / /mnt/twice rw - btrfs /dev/vdc rw
"""


@pytest.mark.parametrize(
    ("directory", "kind"),
    [
        ("/var/lib/memory", "ext4"),
        ("/", "ext4"),
        ("/home/me/.local/share/memory-mcp", "nfs4"),
        ("/home/local/me", "xfs"),
        ("/home/localhost", "nfs4"),
        ("/homeless", "ext4"),
        ("/mnt/team share/a", "cifs"),
        ("/mnt/back\\slash", "fuse.sshfs"),
        ("/mnt/c/Users/me", "9p"),
        ("/mnt/twice/a", "btrfs"),
        ("/run/user/1000/x", "tmpfs"),
    ],
)
def test_the_longest_mount_point_decides_and_the_last_mount_covers_the_others(directory: str, kind: str) -> None:
    assert type_of(Path(directory), MOUNTS) == kind


def test_where_no_line_fits_nothing_is_known() -> None:
    assert type_of(Path("/data"), "") == ""
    assert type_of(Path("/data"), "no mount at all\n1 2 3 - \n") == ""


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "ceph", "lustre", "fuse.sshfs", "fuse.glusterfs"])
def test_what_lies_on_another_machine_is_a_network_file_system(kind: str) -> None:
    assert is_network(kind)


@pytest.mark.parametrize(
    "kind", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "9p", "virtiofs", "fuseblk", "fuse.ntfs-3g", "fuse", ""]
)
def test_what_lies_on_this_machine_is_none(kind: str) -> None:
    assert not is_network(kind)


async def test_a_memory_on_a_network_file_system_is_refused_unless_it_is_allowed(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mountinfo"
    point = str(settings.data_dir.parent.resolve()).replace(" ", "\\040")
    mounts.write_text(
        f"22 1 254:1 / / rw - ext4 /dev/vda1 rw\n36 22 0:46 / {point} rw - nfs4 server:/export rw\n", encoding="utf-8"
    )
    monkeypatch.setattr(filesystem, "MOUNTINFO", mounts)
    with pytest.raises(NetworkFileSystemError) as caught:
        await Memory(settings).open()
    assert caught.value.code == "network_file_system"
    assert "nfs4" in caught.value.message
    assert "allow_network_file_system" in caught.value.hint
    assert not (settings.data_dir / "memory.db").exists()
    allowed = settings.model_copy(update={"allow_network_file_system": True})
    async with Memory(allowed) as memory:
        assert (await start(memory))["status"] == "open"


async def test_where_the_platform_does_not_tell_its_mounts_every_directory_passes(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystem, "MOUNTINFO", tmp_path / "nothing")
    async with Memory(settings) as memory:
        assert (await start(memory))["status"] == "open"


@pytest.mark.parametrize(("value", "number"), [("FULL", 2), ("NORMAL", 1)])
async def test_the_setting_synchronous_reaches_the_writing_connection(
    settings: Settings, value: str, number: int
) -> None:
    async with Memory(settings.model_copy(update={"synchronous": value})) as memory:
        engine = memory.store.engine
        told = await engine._writer.unit(lambda session: session.one("PRAGMA synchronous"))  # type: ignore[attr-defined]
        assert told == (number,)
