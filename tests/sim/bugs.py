"""Known bugs, planted one at a time to see that the simulator finds such: what each breaks, and the world that tells.

`seed` is the first world, of those from 0 on, that told when this was written: so many worlds, and one, it took.
"""

from collections.abc import Callable
from typing import Any

from attrs import frozen

from agentix_kernel import dispatch, lifecycle, rebirth
from agentix_kernel.journal.commit import Committer
from agentix_kernel.kernel import Kernel
from agentix_kernel.process import Process, Why
from agentix_kernel.registry import Registry


@frozen
class Bug:
    """One row: `wrong(original)` gives what takes the place of `room.name`."""

    what: str
    room: Any
    name: str
    wrong: Callable[[Any], Any]
    seed: int


def answers_anybody(_original):
    def send(session, data):
        if not session.closed:
            session.send_now(data)
    return send


def records_half(original):
    def note(kernel, process, *args, **more):
        return kernel.journal.published if process.calls % 2 else original(kernel, process, *args, **more)
    return note


def forgets_children(original):
    def close_accounts(kernel, process, end):
        children = set(process.children)
        original(kernel, process, end)
        process.children |= children
    return close_accounts


def restarts_whatever_it_did(original):
    def delay(kernel, process, end):
        return 0.1 if end.why is Why.POLICY and not kernel.shutting else original(kernel, process, end)
    return delay


def answers_before_the_disk(original):
    def post(kernel, to, data, durable_seq=0):
        original(kernel, to, data, 0)
    return post


def answers_before_the_record(original):
    def flush(kernel):
        replies, kernel._replies = kernel._replies, []
        for to, data in replies:
            to.send(data)
        if len(replies) != 1:
            original(kernel)
    return flush


def says_durable_before_the_sync(_original):
    def commit(committer):
        committer.durable = committer.published
        committer._tell()
    return commit


def gives_the_uid_of_the_dead(original):
    def save(registry, process):
        original(registry, process)
        if not process.alive:
            registry.free_uid(process.uid)
    return save


def stops_without_holding(original):
    def hold(kernel, process):
        original(kernel, process)
        process.held = False
    return hold


def resumes_before_the_thaw(original):
    def resume(kernel, process):
        process.held = False
        original(kernel, process)
    return resume


def counts_no_lives(original):
    def following(process, wall_ns, monotonic_ns):
        made = original(process, wall_ns, monotonic_ns)
        made.life = process.life
        return made
    return following


BUGS = (
    Bug("answers the stopped and the doomed", dispatch.Session, "send", answers_anybody, 0),
    Bug("answers what it did not record", dispatch, "_note", records_half, 0),
    Bug("leaks a family", lifecycle, "_close_accounts", forgets_children, 0),
    Bug("restarts what broke its policy", rebirth, "delay", restarts_whatever_it_did, 1),
    Bug("answers durable calls before the disk", Kernel, "post", answers_before_the_disk, 44),
    Bug("answers before the record has left", Kernel, "flush", answers_before_the_record, 18),
    Bug("says durable before the sync", Committer, "commit", says_durable_before_the_sync, 2),
    Bug("gives the uid of the dead to another", Registry, "save", gives_the_uid_of_the_dead, 0),
    Bug("stops without holding", lifecycle, "hold", stops_without_holding, 4),
    Bug("resumes before the thaw", lifecycle, "resume", resumes_before_the_thaw, 4),
    Bug("counts no lives", Process, "following", counts_no_lives, 0),
)
