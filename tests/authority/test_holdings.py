"""The handle table: what is given is at most what is held, and what is taken back is gone everywhere."""

import errno

import pytest
import strategies
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agentix_kernel.authority import capability, holdings
from agentix_kernel.authority.holdings import ROOT, Holdings
from agentix_syscalls.errors import CallError

PARENTS = {1: ROOT, 2: 1, 3: 1, 4: 2, 5: 4}
FILES = capability.parse("capability://file/state?action=read,write")
NOTES = capability.parse("capability://file/state/notes?action=read")


@pytest.fixture
def table() -> Holdings:
    return Holdings(lambda agent: PARENTS.get(agent, ROOT))


def test_a_grant_goes_down_the_family_and_comes_back_at_once(table) -> None:
    assert table.grant(1, FILES) == holdings.Row("grant", 1, 1, ROOT, None, str(FILES))
    assert table.delegate(1, 1, 2, NOTES) == holdings.Row("delegate", 2, 1, 1, 1, str(NOTES))
    table.delegate(2, 1, 4)
    table.attenuate(1, 1, NOTES)
    assert [(one.holder, one.handle, one.depth) for one in table.tree()] == [(1, 1, 0), (2, 1, 1), (4, 1, 2), (1, 2, 1)]
    assert table.use(4, 1, "read", b"/state/notes/x", 0, 0).capability == NOTES
    gone = table.revoke(2, 1, by=1)
    assert [(row.change, row.who, row.giver, row.parent) for row in gone] == [("revoke", 2, 1, 1), ("revoke", 4, 2, 1)]
    assert table.held(4) == table.held(2) == ()
    with pytest.raises(CallError, match="holds no capability 1") as caught:
        table.use(4, 1, "read", b"/state/notes/x", 0, 0)
    assert caught.value.number == errno.EBADF


@pytest.mark.parametrize(
    "wider",
    [
        "capability://file?action=read",
        "capability://file/state?action=read,write&max=1",
        "capability://file/state/notes?action=write",
        "capability://tool?action=exec",
        "capability://file/mem?action=read",
    ],
)
def test_nothing_is_widened(table, wider) -> None:
    table.grant(1, capability.parse("capability://file/state?action=read&rate=1/s"))
    for attempt in (
        lambda: table.attenuate(1, 1, capability.parse(wider)),
        lambda: table.delegate(1, 1, 2, capability.parse(wider)),
    ):
        with pytest.raises(CallError, match="is more than") as caught:
            attempt()
        assert caught.value.number == errno.EPERM
    assert len(list(table.tree())) == 1


def test_only_own_children_are_given_to(table) -> None:
    table.grant(1, FILES)
    for stranger in (1, 4, 5, 77):
        with pytest.raises(CallError) as caught:
            table.delegate(1, 1, stranger)
        assert caught.value.number == errno.ECHILD


def test_who_did_not_give_cannot_take_back(table) -> None:
    table.grant(1, FILES)
    table.delegate(1, 1, 2)
    table.delegate(1, 1, 3)
    for stranger, victim in ((3, 2), (2, 1), (5, 2)):
        with pytest.raises(CallError) as caught:
            table.revoke(victim, 1, by=stranger)
        assert caught.value.number == errno.EPERM
    assert [row.who for row in table.revoke(3, 1, by=3)] == [3], "what is one's own may be given up"


@pytest.mark.parametrize("handle", [0, 2, -1, 1 << 40])
def test_handles_that_were_not_given_are_nothing(table, handle) -> None:
    table.grant(1, FILES)
    table.grant(2, FILES)
    for attempt in (
        lambda: table.find(1, handle),
        lambda: table.revoke(1, handle),
        lambda: table.delegate(1, handle, 2),
        lambda: table.use(1, handle, "read", b"", 0, 0),
    ):
        with pytest.raises(CallError) as caught:
            attempt()
        assert caught.value.number == errno.EBADF


def test_a_number_is_never_given_twice(table) -> None:
    table.grant(1, FILES)
    table.revoke(1, 1)
    assert table.grant(1, NOTES).handle == 2


def test_children_share_what_their_parent_has(table) -> None:
    table.grant(1, capability.parse("capability://tool?action=exec&max=3"))
    table.delegate(1, 1, 2)
    table.delegate(1, 1, 3)
    for agent in (2, 3, 2):
        table.use(agent, 1, "exec", b"x", 0, 0)
    for agent in (1, 2, 3):
        with pytest.raises(CallError, match="at most 3 in a life"):
            table.use(agent, 1, "exec", b"x", 0, 0)


def test_a_refused_use_counts_nowhere(table) -> None:
    table.grant(1, capability.parse("capability://tool?action=exec&max=5"))
    table.delegate(1, 1, 2, capability.parse("capability://tool?action=exec&max=1"))
    table.use(2, 1, "exec", b"x", 0, 0)
    with pytest.raises(CallError):
        table.use(2, 1, "exec", b"x", 0, 0)
    assert table.find(1, 1).meter.used == 1


def test_the_first_that_covers_and_has_something_left_is_used(table) -> None:
    table.grant(1, capability.parse("capability://tool/ls?action=exec&max=1"))
    table.grant(1, capability.parse("capability://tool?action=exec&max=1"))
    used = [table.authorise(1, "tool", "exec", b"ls", 0, 0).handle for _ in range(2)]
    assert used == [1, 2]
    for obj, number in ((b"ls", errno.EDQUOT), (b"x", errno.EDQUOT)):
        with pytest.raises(CallError) as caught:
            table.authorise(1, "tool", "exec", obj, 0, 0)
        assert caught.value.number == number
    for resource, action in (("file", "read"), ("tool", "read"), ("", "")):
        with pytest.raises(CallError, match="no capability") as caught:
            table.authorise(1, resource, action, b"ls", 0, 0)
        assert caught.value.number == errno.EPERM


def test_what_an_ended_agent_gave_stays_under_its_limits(table) -> None:
    table.grant(1, capability.parse("capability://tool?action=exec&max=1"))
    table.delegate(1, 1, 2)
    assert [row.change for row in table.close(1)] == ["close"]
    assert table.held(1) == ()
    table.use(2, 1, "exec", b"x", 0, 0)
    with pytest.raises(CallError, match="at most 1"):
        table.use(2, 1, "exec", b"x", 0, 0)
    with pytest.raises(CallError) as caught:
        table.revoke(2, 1, by=1)
    assert caught.value.number == errno.EPERM, "the dead take nothing back"
    table.close(2)
    assert list(table.tree()) == [], "nothing is kept for nobody"


def test_a_table_and_a_chain_have_an_end(table) -> None:
    table.grant(1, FILES)
    for _ in range(holdings.DEPTH_MAX - 1):
        table.attenuate(1, table.held(1)[-1].handle, FILES)
    with pytest.raises(CallError, match="passed on 31 times") as caught:
        table.attenuate(1, table.held(1)[-1].handle, FILES)
    assert caught.value.number == errno.EMFILE
    for _ in range(holdings.HANDLES_MAX - holdings.DEPTH_MAX):
        table.grant(1, FILES)
    with pytest.raises(CallError, match="holds 256 capabilities") as caught:
        table.grant(1, FILES)
    assert caught.value.number == errno.EMFILE


class Machine(RuleBasedStateMachine):
    """Agents give, narrow, take back and end in any order. The model says from which grant each comes, and which of
    them are ghosts: those of agents that have ended.
    """

    def __init__(self) -> None:
        super().__init__()
        self.table = Holdings(lambda agent: PARENTS[agent])
        self.model: dict[tuple[int, int], tuple[int, int] | None] = {}
        self.ghosts: set[tuple[int, int]] = set()
        self.now = 0

    def _pick(self, data) -> tuple[int, int]:
        return data.draw(st.sampled_from(sorted(self.model.keys() - self.ghosts)))

    @initialize(wanted=strategies.capabilities("file"))
    def begin(self, wanted) -> None:
        self.grant(1, wanted)

    @rule(agent=st.sampled_from(sorted(PARENTS)), wanted=strategies.capabilities("file"))
    def grant(self, agent, wanted) -> None:
        self.model[agent, self.table.grant(agent, wanted).handle] = None

    @precondition(lambda self: self.model.keys() - self.ghosts)
    @rule(data=st.data(), wanted=st.none() | strategies.capabilities("file"), child=st.none() | st.integers(1, 5))
    def derive(self, data, wanted, child) -> None:
        source = self._pick(data)
        try:
            if child is None:
                row = self.table.attenuate(*source, wanted or self.table.find(*source).capability)
            else:
                row = self.table.delegate(*source, child, wanted)
        except CallError as error:
            assert error.number in {errno.EPERM, errno.ECHILD, errno.EMFILE}
            assert error.number != errno.EPERM or wanted is not None
            return
        assert child is None or PARENTS[child] == source[0]
        self.model[row.who, row.handle] = source

    @precondition(lambda self: self.model.keys() - self.ghosts)
    @rule(data=st.data(), by=st.sampled_from([ROOT, *PARENTS]))
    def revoke(self, data, by) -> None:
        victim = self._pick(data)
        holders = {grant.holder for grant in self.table.find(*victim).chain() if grant.held}
        gone = {victim}
        while more := {key for key, source in self.model.items() if source in gone} - gone:
            gone |= more
        try:
            rows = self.table.revoke(*victim, by=by)
        except CallError:
            assert by != ROOT
            assert by not in holders
            return
        assert by == ROOT or by in holders
        assert {(row.who, row.handle) for row in rows} == gone - self.ghosts, "everything derived is named"
        self._drop(gone)

    @rule(agent=st.sampled_from(sorted(PARENTS)))
    def close(self, agent) -> None:
        mine = {key for key in self.model if key[0] == agent} - self.ghosts
        assert {(row.who, row.handle) for row in self.table.close(agent)} == mine
        self.ghosts |= mine
        self._drop(set())

    def _drop(self, gone: set[tuple[int, int]]) -> None:
        """Forget these, and ghosts that nothing comes from any more."""
        while gone:
            for key in gone:
                del self.model[key]
            self.ghosts -= gone
            gone = self.ghosts - set(self.model.values())
        if idle := self.ghosts - set(self.model.values()):
            self._drop(idle)

    @precondition(lambda self: self.model.keys() - self.ghosts)
    @rule(data=st.data(), obj=strategies.objects, wait=st.integers(0, 10**10))
    def use(self, data, obj, wait) -> None:
        self.now += wait
        key = self._pick(data)
        before = [grant.meter.used for grant in self.table.find(*key).chain()]
        try:
            grant = self.table.use(*key, "read", obj, self.now, self.now)
        except CallError:
            assert [grant.meter.used for grant in self.table.find(*key).chain()] == before
            return
        for above in grant.chain():
            assert above.capability.covers("read", obj)
            assert above.capability.constraints.max is None or above.meter.used <= above.capability.constraints.max

    @invariant()
    def nobody_holds_more_than_the_chain_above(self) -> None:
        held = {(grant.holder, grant.handle): grant for agent in PARENTS for grant in self.table.held(agent)}
        assert held.keys() == self.model.keys() - self.ghosts
        for key, grant in held.items():
            source = self.model[key]
            assert (grant.above is None) == (source is None)
            assert grant.above is None or (grant.above.holder, grant.above.handle) == source
            assert all(grant.capability.within(above.capability) for above in grant.chain())

    @invariant()
    def the_tree_is_what_is_held(self) -> None:
        tree = {(grant.holder, grant.handle): grant.held for grant in self.table.tree()}
        assert tree.keys() == self.model.keys()
        assert {key for key, held in tree.items() if not held} == self.ghosts


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
