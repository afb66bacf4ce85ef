"""When an agent has ended, its scratch memory is gone and the rest of its tree stays."""

from agentix_syscalls.calls import O_CREAT, O_RDWR
from agentix_vfs.tree import Tree
from agentix_vfs.who import Who


def test_scratch_goes_with_the_agent_and_nothing_else(tree: Tree, me: Who) -> None:
    for folder in (b"mem/working", b"state"):
        tree.mkdir(me, folder + b"/d")
        tree.mkdir(me, folder + b"/d/e")
        handle = tree.open(me, folder + b"/d/e/file", O_RDWR | O_CREAT, 0o600)
        handle.write(b"x" * 100_000, 0)
        handle.close()
    held = tree.open(me, b"mem/working/held", O_RDWR | O_CREAT, 0o600)
    held.write(b"held", 0)
    tree.retire(me.agent)
    assert tree.readdir(me, b"mem/working") == []
    assert tree.stat(me, b"state/d/e/file").size == 100_000
    assert held.read(10, 0) == b"held"
    held.close()
    quota = tree.root_of(me.agent).entries[b"mem"].entries[b"working"].mount.store.quota
    assert (quota.bytes_used, quota.inodes_used) == (0, 0)
