"""What can go wrong with a journal. All are OSError, so that whoever handles disks handles them; none is swallowed."""

import errno
from typing import Final

NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class JournalError(OSError):
    """`errno` is Linux's; the message names the place and what to do."""


class JournalFull(JournalError):  # noqa: N818 - named for the state of the disk, as people say it
    """No space for what was recorded. Nothing is lost: it stays buffered, and the next publish tries again."""


class JournalFailed(JournalError):  # noqa: N818 - the other state of the disk
    """The disk refused a write or a sync."""


class JournalLocked(JournalError):  # noqa: N818 - a state, too
    """Another kernel has this journal open."""


class JournalDamaged(JournalError):  # noqa: N818 - a state, too
    """What was durable is not there as it was written: not a crash. Nothing was changed."""


class JournalNewer(JournalError):  # noqa: N818 - said of the journal
    """Written by a version of agentix that knows more. Nothing was changed."""


class JournalKeyError(JournalError):
    """The key is missing, not a key, or not the one this journal was written with. Nothing was changed."""


def from_disk(error: OSError, where: str, *, doing: str, final: bool = False) -> JournalError:
    """The journal's error for one of the disk. `final`: only opening the journal anew can go on."""
    number = error.errno or errno.EIO
    told = f"journal {where}: {doing}: {error.strerror or error}"
    again = "then restart agentd" if final else "then it goes on by itself"
    if number in NO_SPACE:
        return JournalFull(number, f"{told}; free space on the file system of {where}, {again}")
    return JournalFailed(number, f"{told}; look after the disk under {where} (dmesg tells), {again}")
