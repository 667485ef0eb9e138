from __future__ import annotations

from pathlib import Path

import pytest

from tomoscribe.engine.watch import polling

MOUNTS = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /data rw shared:2 master:1 - xfs /dev/sdb1 rw
31 30 0:41 / /data/krios rw - nfs4 server:/krios rw,vers=4.2
32 30 0:42 / /data/k3\040raw rw - cifs //k3/raw rw
33 30 0:43 / /data/lustre rw - lustre mds:/scratch rw
34 30 0:44 / /data/sshfs rw - fuse.sshfs user@host: rw
35 22 0:45 / /twice rw - nfs a:/b rw
36 22 8:3 / /twice rw - ext4 /dev/sdc1 rw
37 22 0:46 / /tank rw - zfs tank rw
38 22 0:47 / /fuseblk rw - fuseblk /dev/sdd1 rw
"""


@pytest.mark.parametrize(
    ("folder", "needed"),
    [
        ("/home/user", False),
        ("/data", False),
        ("/data/krios", True),
        ("/data/krios/session/1", True),
        ("/data/kriosity", False),
        ("/data/k3 raw/x", True),
        ("/data/lustre", True),
        ("/data/sshfs/x", True),
        ("/twice/x", False),
        ("/tank/x", False),
        ("/fuseblk/x", False),
    ],
)
def test_folders_that_other_machines_write_to_are_polled(tmp_path, monkeypatch, folder, needed):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS.lstrip())
    monkeypatch.setattr(polling, "_MOUNTS", mounts)
    assert polling.needs_polling(Path(folder)) is needed


def test_where_there_is_no_list_of_mounts_the_kernel_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(polling, "_MOUNTS", tmp_path / "absent")
    assert not polling.needs_polling(tmp_path)


def test_this_systems_own_list_can_be_read(tmp_path):
    assert polling.needs_polling(Path("/proc/self")) is False
