"""Whether a folder's file system tells of changes, or has to be looked at again and again."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

__all__ = ["needs_polling"]

_MOUNTS = Path("/proc/self/mountinfo")
# inotify hears what this machine does; others may write to these.
_SHARED = re.compile(
    r"(9p|afs|beegfs|ceph|cifs|coda|davfs|fhgfs|fuse(\..+)?|gfs2|glusterfs|gpfs|lustre|ncpfs|nfs\d*|ocfs2|orangefs"
    r"|panfs|prl_fs|pvfs2|smb\d*|smbfs|vboxsf|virtiofs|vmhgfs|wekafs)"
)


def needs_polling(folder: Path) -> bool:
    """Return whether the file system of a folder is one that other machines write to, as Linux lists its mounts.

    Source: proc_pid_mountinfo(5): the fifth field is the mount point, with spaces and backslashes in octal, and the
    first after the single hyphen the type of file system. Elsewhere than on Linux the answer is no.
    """
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return False
    resolved = PurePosixPath(folder.resolve())
    found = PurePosixPath("/"), ""
    for line in lines:
        fields, _, rest = line.partition(" - ")
        point = PurePosixPath(re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), fields.split(" ")[4]))
        # Of mounts at one point, the last is on top.
        if resolved.is_relative_to(point) and len(point.parts) >= len(found[0].parts):
            found = point, rest.split(" ")[0]
    return _SHARED.fullmatch(found[1]) is not None
