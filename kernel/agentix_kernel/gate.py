"""The judge at the mount: what the policy says of files holds there as it does for system calls."""

from collections.abc import Sequence
from typing import Final

from attrs import frozen

from agentix_kernel import denials, grants
from agentix_kernel.authority.policy.inforce import STRICT, Verdict
from agentix_kernel.kernel import Kernel
from agentix_syscalls import records
from agentix_vfs.fuse.gate import Withheld
from agentix_vfs.who import Who

NOT_ITS_OWN: Final = Verdict(allowed=False, rule="mount: its own tree", message="it is another agent's tree")
"""Whoever was handed a descriptor of a folder in there."""
UNRECORDED: Final = frozenset({"STAT", "READDIR"})


@frozen
class MountGate:
    """Implements the FUSE server's Gate. Asked for callers other than root."""

    kernel: Kernel

    def who(self, uid: int, gid: int, pid: int) -> Who:
        del pid
        process = self.kernel.table.by_uid.get(uid)
        return Who(uid, gid, process.id if process is not None else 0)

    def check(self, who: Who, call: str, agent: int, path: bytes) -> None:
        """Raises CallError: EPERM by a rule; Withheld when the agent's end is decided, by this call or before."""
        process = self.kernel.table.by_id.get(who.agent)
        if process is None:
            return
        if process.doom is not None:
            raise Withheld(process.id)
        if self.kernel.journal.failed is not None and call not in UNRECORDED:
            raise denials.unrecorded(self.kernel)
        if not agent or (agent == who.agent and call not in process.policy.guarded):
            return
        decision = process.policy.decide(call, path) if agent == who.agent else NOT_ITS_OWN
        if decision.allowed:
            return
        shown = path.decode("utf-8", "replace")
        if agent == who.agent:
            refused = denials.violate(self.kernel, process, "mount", call, shown, decision)
        else:
            refused = denials.refuse(self.kernel, process, "mount", call, f"agent {agent}: {shown}", decision)
        self.kernel.flush()
        if refused is not None:
            raise Withheld(process.id) if process.policy.mode == STRICT else refused

    def count(self, who: Who, operation: str, asked: Sequence[tuple[str, int, bytes]]) -> None:
        """Raises CallError: EAGAIN, EDQUOT when what is metered is used up."""
        process = self.kernel.table.by_id.get(who.agent)
        if process is None or not process.policy.metered:
            return
        needs = tuple(need for call, agent, path in asked if agent == who.agent
                      for need in process.policy.decide(call, path).needs)
        if needs:
            grants.spend(self.kernel, process, operation, asked[-1][2].decode("utf-8", "replace"), needs)

    def ending(self, who: Who) -> bool:
        process = self.kernel.table.by_id.get(who.agent)
        return process is not None and process.doom is not None

    def record(self, who: Who, operation: str, agent: int, path: bytes, error: int) -> None:
        """Opens that reach us, creates, renames, removals, denials; of agents only: the host's people browse freely."""
        del agent
        process = self.kernel.table.by_id.get(who.agent)
        if process is None or (operation in UNRECORDED and error == 0):
            return
        if error and self.kernel.journal.failed is not None:
            return  # nothing was done: as with calls, this answer leaves without a record
        verdict = records.ALLOWED if error == 0 else records.FAILED
        self.kernel.record(records.FILE, process, verdict=verdict,
                           data=(operation, path.decode("utf-8", "replace")[:512], error))
        self.kernel.flush()  # recorded before the reply leaves
