"""Putting another policy in force for a living agent: at once, and for what it has begun already as well.

One change in the kernel's thread, without an await: who asks before it is judged by the one policy, who asks after it
by the other. What was opened or begun under the old one is asked again, and what the new one refuses is taken back.
"""

import errno
from functools import partial

from attrs import frozen

from agentix_kernel import budgets
from agentix_kernel.authority.policy.inforce import AUDIT, InForce, Verdict
from agentix_kernel.kernel import Kernel
from agentix_kernel.process import Process
from agentix_syscalls.errors import CallError
from agentix_vfs.handles import Handle
from agentix_vfs.nodes import Directory, Node, paths_of, shown


@frozen
class Stays:
    """What was taken back, and what a change of policy cannot take back, each by name.

    `closed`: paths of what was open and answers EPERM from now on, to reading or to writing; mappings of what may not
    be read any more have lost their pages. `ended`: calls that waited. `binds` are folders of the host, shown by the
    sandbox's mounts; `children` are agents that were spawned and live on.
    """

    closed: tuple[str, ...] = ()
    ended: tuple[str, ...] = ()
    binds: tuple[str, ...] = ()
    children: tuple[int, ...] = ()


def put(kernel: Kernel, process: Process, policy: InForce) -> Stays:
    """Put it in force, and take back what it does not allow. Raises nothing; the caller has recorded why."""
    process.policy = policy
    budgets.follow(process)
    binds = tuple(f"{bind.target} ({'rw' if bind.writable else 'ro'}, {bind.source})" for bind in process.command.binds)
    children = tuple(sorted(process.children))
    if policy.mode == AUDIT:
        return Stays(binds=binds, children=children)
    closed = _withdraw_handles(kernel, process)
    ended = [name for session in list(process.sessions) for name in session.withdraw()]
    return Stays(closed, tuple(ended), binds, children)


def _withdraw_handles(kernel: Kernel, process: Process) -> tuple[str, ...]:
    closed: set[str] = set()
    barred: dict[int, Node] = {}
    for handle in kernel.tree.inodes.opened(process.id, process.uid):
        for reading in (True, False):
            refused = _refused(process.policy, handle, reading=reading)
            if refused is None:
                continue
            why = partial(CallError, errno.EPERM, f"no more: {refused.message}", rule=refused.rule,
                          remedy="it was opened under another policy")
            handle.withdraw(why, reading=reading)
            closed.add(shown(handle.node))
            if reading:
                barred[handle.node.ino] = handle.node
    if barred and kernel.tree.barred is not None:
        kernel.tree.barred(list(barred.values()))
    return tuple(sorted(closed))


def _refused(policy: InForce, handle: Handle, *, reading: bool) -> Verdict | None:
    """What speaks against reading or writing it, under any of its names; None too when it was not open for that."""
    if not (handle.readable if reading else handle.writable):
        return None
    call = "WRITE" if not reading else "READDIR" if isinstance(handle.node, Directory) else "READ"
    try:
        said = [policy.decide(call, path) for path in paths_of(handle.node)]
    except CallError as error:  # rules cannot tell what it is, so none allows it
        return Verdict(allowed=False, rule="files that have a path", message=error.message)
    return next((one for one in said if not one.allowed), None)
