"""state and mem/episodic share a quota of bytes: one agent may not fill the disk of all."""

import errno
from pathlib import Path

import pytest

from agentix_syscalls.calls import O_APPEND, O_CREAT, O_RDWR, O_WRONLY
from agentix_syscalls.errors import CallError
from agentix_vfs.tree import Tree
from agentix_vfs.who import Who

QUOTA = 10_000


def grown(host_root: str, me: Who) -> Tree:
    tree = Tree(host_root, durable_bytes=QUOTA)
    tree.add(me.agent, me.uid, "seven", proc={}, policy={})
    return tree


def used(tree: Tree, me: Who) -> int:
    return int(tree.root_of(me.agent).entries[b"state"].mount.store.quota.bytes_used)


def test_bytes_are_counted_given_back_and_found_again(tmp_path: Path, me: Who) -> None:
    tree = grown(str(tmp_path), me)
    file = tree.open(me, b"state/f", O_RDWR | O_CREAT)
    assert file.write(b"x" * 6000, 0) == 6000
    file.write(b"y" * 6000, 0)  # over what is there: nothing more is held
    log = tree.open(me, b"mem/episodic/log", O_WRONLY | O_CREAT | O_APPEND)
    log.write(b"z" * 3000, 0, append=True)
    for refused in (lambda: file.write(b"x" * 2000, 6000), lambda: tree.truncate(me, b"state/f", 7001),
                    lambda: log.write(b"z" * 1001, 0, append=True)):
        with pytest.raises(CallError) as caught:
            refused()
        assert caught.value.number == errno.EDQUOT
    assert used(tree, me) == 9000
    tree.truncate(me, b"state/f", 1000)
    assert used(tree, me) == 4000
    file.close()
    log.close()
    again = grown(str(tmp_path), me)  # as after a reboot
    assert used(again, me) == 4000
    again.unlink(me, b"state/f")
    assert used(again, me) == 3000
