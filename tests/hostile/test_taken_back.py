"""What an agent got hold of while it was allowed: nothing of it is of use once another policy is in force."""

import json
import os
import re
from pathlib import Path

import pytest
from attrs import frozen
from hostile.outside import contents
from hostile.test_attempts import live, outside, spawn, until_said

from agentix_syscalls import signals

WIDE = b"""\
version: 1
name: wide
mode: enforce
allow:
  - {file: /mem, action: [read, write]}
  - {file: /state, action: [read, write]}
"""
NARROW = WIDE.replace(b"wide", b"narrow") + b"deny: [{file: /state/held, action: '*'}]\n"
STATE = 2
"""The handle of what is held on /state: the second rule."""
TRIES = {
    "read a descriptor": "os.pread(HOLD['fd'], 100, 0)", "read a copy of it": "os.read(HOLD['copy'], 100)",
    "write a descriptor": "os.pwrite(HOLD['fd'], b'mine', 0)",
    "append by a descriptor": "os.write(HOLD['append'], b'mine')",
    "cut by a descriptor": "os.ftruncate(HOLD['fd'], 0)",
    "let everybody in by a descriptor": "os.fchmod(HOLD['fd'], 0o777)",
    "change times by a descriptor": "os.utime(HOLD['fd'], (1, 1))",
    "open a place again": "read(f\"/proc/self/fd/{HOLD['place']}\")",
    "open a descriptor again": "read(f\"/proc/self/fd/{HOLD['fd']}\")",
    "open by a folder": "read('secret', dir_fd=HOLD['folder'])", "open by the working folder": "read('secret')",
    "make a file by a folder": "os.open('planted', NEW, dir_fd=HOLD['folder'])",
    "remove by a folder": "os.unlink('secret', dir_fd=HOLD['folder'])",
    "move by a folder": "os.rename('secret', '../out', src_dir_fd=HOLD['folder'])",
    "list a folder": "os.listdir(HOLD['folder'])", "go on listing": "[entry.name for entry in HOLD['names']]",
    "read a message's descriptor": "by_message()", "read as a child": "by_child()",
    "splice": "spliced()", "send the file": "sent()",
    "copy the range": "os.copy_file_range(HOLD['fd'], os.open(ME + 'state/copy', NEW), 9)",
    "read by a handle": "libc.pread(HOLD['handle'], 100, 0)",
    "write by a handle": "libc.pwrite(HOLD['handle'], b'mine', 0)",
    "read what has no name": "os.pread(HOLD['unnamed'], 100, 0)",
    "write what has no name": "os.pwrite(HOLD['unnamed'], b'mine', 0)",
    "map it again": "in_child(mapped_again)", "read pages that were read": "in_child(lambda: HOLD['pages'][:40])",
    "read private pages": "in_child(lambda: HOLD['private'][:40])",
    "read pages that were never read": "in_child(lambda: HOLD['far'][:40])",
    "write pages": "in_child(lambda: HOLD['pages'].write(b'mine') and HOLD['pages'].flush())",
    "write pages that were never read": "in_child(lambda: HOLD['far'].write(b'mine') and HOLD['far'].flush())",
}
REFUSED = "EPERM|SIGBUS"


@frozen
class Held:
    """The answers, and what the host saw before the attempts and after them."""

    answers: list[str]
    before: object
    after: object
    said: bytes
    secret: str


def by_policy(client, agent):
    row, = client.call("policy_set", [agent], ["narrow.yaml", NARROW], False, [])
    assert row["result"] == "set"


def by_revocation(client, agent):
    assert [row["handle"] for row in client.call("revoke", agent, STATE)["gone"]] == [STATE]


@pytest.fixture(scope="module", params=[by_policy, by_revocation], ids=["by another policy", "by a revocation"])
def held(outside, request):
    told = {"wait": True}
    tries = [["", "hold()"], *([name, tries] for name, tries in TRIES.items())]
    agent = spawn(outside, f"holder-{request.param_index}", tries, told, policy=["wide.yaml", WIDE])
    outside.attacker = agent
    until_said(outside, agent, b"ready")
    uid = outside.kernel.agent(agent)["uid"]
    os.mkdir(outside.tree("state/held"))
    for name, size in (("secret", 4096), ("large", 1 << 20)):
        Path(outside.tree(f"state/held/{name}")).write_bytes(b"old".ljust(size, b"."))
        os.chown(outside.tree(f"state/held/{name}"), uid, uid)
    os.chown(outside.tree("state/held"), uid, uid)
    outside.client.call("feed", agent, b"g")
    until_said(outside, agent, b"held")
    request.param(outside.client, agent)
    for name, size in (("secret", 4096), ("large", 1 << 20)):  # what it must not come to know
        with open(outside.tree(f"state/held/{name}"), "r+b") as file:
            file.write(outside.token.encode().ljust(size, b"."))
    before = contents(outside.tree("state/held"))
    outside.client.call("feed", agent, b"g")
    said = b"\n".join(until_said(outside, agent, b"end"))
    answers = dict(json.loads(line) for line in said.split(b"\n") if line.startswith(b"["))
    after = contents(outside.tree("state/held"))
    yield Held([answers[number + 1] for number in range(len(TRIES))], before, after, said, outside.token)
    outside.client.call("signal", agent, signals.SIGKILL)


@pytest.mark.parametrize("name", TRIES)
def test_it_is_of_no_use_any_more(held, name):
    answer = held.answers[list(TRIES).index(name)]
    assert re.fullmatch(REFUSED, answer), answer
    assert held.secret.encode() not in held.said
    assert held.after == held.before


__all__ = ["live", "outside"]
