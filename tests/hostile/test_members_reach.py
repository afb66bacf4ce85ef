"""What a member of the group asks about an agent that is root's: all may look, and nothing changes by it."""

import errno
import os

import pytest
from hostile.outside import contents
from hostile.test_policy_files import live
from live.test_members import as_member

from agentix import control
from agentix_syscalls import signals
from agentix_syscalls.errors import CallError

ROOTS, OWN = "roots", "own"
"""Names of the agents: root's, and the member's."""
TRIES = {
    "give it more": ("grant", ROOTS, "capability://tool?action=exec"),
    "give it what it has": ("grant", ROOTS, "capability://file/state?action=read"),
    "take from it": ("revoke", ROOTS, 1),
    "take from it what it does not have": ("revoke", ROOTS, 99),
    "give it another policy": ("policy_set", [ROOTS], "audit"),
    "give it one of one's own": ("policy_set", [ROOTS], ["mine.yaml", b"version: 1\nname: mine\nmode: audit\n"]),
    "give it another, and restart it": ("policy_set", [ROOTS], "audit", True),
    "give both another": ("policy_set", [OWN, ROOTS], "audit"),
    "restart it": ("restart", ROOTS), "rename it": ("rename", ROOTS, "mine"),
    "raise its limits": ("update", ROOTS, {"pids": 1000}),
    "write in its tree": ("write", ROOTS, b"state/planted", b"x"),
    "make a folder in its tree": ("mkdir", ROOTS, b"state/planted"), "run beside it": ("execute", ROOTS, ["/bin/true"]),
    "type to it": ("feed", ROOTS, b"x"), "end the kernel": ("shutdown",), "put other settings in force": ("reload",),
    "turn the journal": ("audit_rotate",), "turn its key": ("audit_rotate_key",), "anchor it": ("audit_anchor",),
}
DESCRIPTORS = {"run beside it": 3}


def state(client, kernel) -> object:
    told = client.call("inspect", ROOTS)
    kept = {key: told[key] for key in ("id", "life", "name", "state", "limits", "owner")}
    own = client.call("policy_show", OWN)
    return kept, client.call("policy_show", ROOTS), own, client.call("caps"), contents(kernel.tree(told["id"], "state"))


@pytest.fixture(scope="module")
def asked(live):
    path = f"{live.prefix}/run/control.sock"
    with control.Client(path) as root:
        agent = root.call("spawn", "exec", ["/bin/sleep", "infinity"], {"name": ROOTS, "policy": "strict"})["id"]
        with as_member():
            member = control.Client(path)
        own = member.call("spawn", "exec", ["/bin/sleep", "infinity"], {"name": OWN})["id"]
        before, said = state(root, live), {}
        for name, (operation, *args) in TRIES.items():
            fds = [os.open(os.devnull, os.O_RDWR) for _ in range(DESCRIPTORS.get(name, 0))]
            try:
                said[name] = member.call(operation, *args, descriptors=fds)
            except CallError as error:
                said[name] = error
            for fd in fds:
                os.close(fd)
        records = [row for row in root.stream("trace", agent) if row["kind"] == "denial"]
        yield said, before, state(root, live), records
        member.close()
        for one in (agent, own):
            root.call("signal", one, signals.SIGKILL)


@pytest.mark.parametrize("name", TRIES)
def test_nothing_of_it_is_done(asked, name):
    said, before, after, _ = asked
    assert isinstance(said[name], CallError), said[name]
    assert said[name].number == errno.EPERM, said[name]
    assert after == before


def test_who_tried_is_in_the_record(asked):
    _, _, _, records = asked
    tries = [name for name, (_, *args) in TRIES.items() if args]
    assert len(records) == len(tries)
    assert {row["data"]["object"] for row in records} == {"uid 4242"}


__all__ = ["live"]
