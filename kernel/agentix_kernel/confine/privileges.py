"""Giving up rights: the one room that python-prctl is used in.

Order matters and is the caller's (`child.py`): the bounding set goes while CAP_SETPCAP is held, the user last.
"""

import os

from agentix_kernel.confine import linux

try:
    import prctl
except ImportError:
    from agentix_kernel.confine import plain_prctl as prctl  # type: ignore[no-redef]  # the same functions


def drop_bounding_set() -> None:
    """So that no exec gives a capability back. Once in the zygote: 41 calls, and children inherit it."""
    for capability in prctl.ALL_CAPS:
        if _held(capability):
            prctl.capbset_drop(capability)


def _held(capability: int) -> bool:
    """False for what is dropped already, and for what this kernel does not know."""
    try:
        return prctl.capbset_read(capability)
    except (OSError, ValueError):
        return False


def become(uid: int) -> None:
    """Own uid and gid, no groups, no capabilities in any set."""
    os.setgroups(())
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    linux.capset_none()  # one call; through python-prctl it costs 0.1 ms and forty pages


def no_new_privs() -> None:
    prctl.set_no_new_privs(1)


def die_with_parent() -> None:
    """SIGKILL when the parent's thread ends. Cleared by a change of uid: to be said again after it."""
    prctl.set_pdeathsig(9)


def dumpable(allowed: bool) -> None:
    """Whether processes of the same uid may look into this one; with no, its /proc files belong to root."""
    prctl.set_dumpable(int(allowed))
