"""The handle table: what is given is at most what is held, and what is taken back is gone everywhere."""

import errno

import pytest
import strategies
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agentix_kernel.authority import capability, holdings
from agentix_kernel.authority.holdings import ROOT, Holdings, Need, Start
from agentix_kernel.authority.policy.reading import Mark
from agentix_kernel.authority.policy.rules import ALLOW, Rule
from agentix_syscalls.errors import CallError

PARENTS = {1: ROOT, 2: 1, 3: 1, 4: 2, 5: 4}
FILES = capability.parse("capability://file/state?action=read,write")
NOTES = capability.parse("capability://file/state/notes?action=read")


@pytest.fixture
def table() -> Holdings:
    return Holdings(lambda agent: PARENTS.get(agent, ROOT))


def run(table, agent, tool=b"x", now=0):
    """Use what lets an agent run a tool; the handles of its own that it was counted against."""
    used = table.spend(agent, [Need("tool", "exec", (tool,))], now, now)
    return [grant.handle for grant in used if grant.holder == agent]


def test_a_grant_goes_down_the_family_and_comes_back_at_once(table) -> None:
    assert table.grant(1, FILES) == holdings.Row("grant", 1, 1, ROOT, None, str(FILES), "root")
    assert table.delegate(1, 1, 2, NOTES) == holdings.Row("delegate", 2, 1, 1, 1, str(NOTES), "root")
    table.delegate(2, 1, 4)
    table.attenuate(1, 1, NOTES)
    assert [(one.holder, one.handle, one.depth) for one in table.tree()] == [(1, 1, 0), (2, 1, 1), (4, 1, 2), (1, 2, 1)]
    assert table.find(4, 1).capability == NOTES
    gone = table.revoke(2, 1, by=1)
    assert [(row.change, row.who, row.giver, row.parent) for row in gone] == [("revoke", 2, 1, 1), ("revoke", 4, 2, 1)]
    assert table.held(4) == table.held(2) == ()
    with pytest.raises(CallError, match="holds no capability 1") as caught:
        table.find(4, 1)
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
        run(table, agent)
    for agent in (1, 2, 3):
        with pytest.raises(CallError, match="at most 3 in a life") as caught:
            run(table, agent)
        assert caught.value.rule == "root: allow capability://tool/*?action=exec&max=3"


def test_a_refused_use_counts_nowhere(table) -> None:
    table.grant(1, capability.parse("capability://tool?action=exec&max=5"))
    table.delegate(1, 1, 2, capability.parse("capability://tool?action=exec&max=1"))
    run(table, 2)
    with pytest.raises(CallError):
        run(table, 2)
    assert table.find(1, 1).meter.used == 1


def test_one_operation_counts_once_whatever_it_needs_and_all_of_it_or_nothing(table) -> None:
    table.grant(1, capability.parse("capability://file/state?action=read,write&max=2"))
    table.grant(1, capability.parse("capability://file/mem?action=write&max=1"))
    both = [Need("file", action, (b"/state/x",)) for action in ("read", "write")]
    assert len(table.spend(1, both, 0, 0)) == 1
    move = [Need("file", "write", (path,), whole=True) for path in (b"/state/x", b"/mem/x")]
    used = table.spend(1, move, 0, 0)
    assert [grant.meter.used for grant in used] == [2, 1]
    for needs in (both, move):
        with pytest.raises(CallError):
            table.spend(1, needs, 0, 0)
    table.give_back(used)
    assert [grant.meter.used for grant in used] == [1, 0]
    assert len(table.spend(1, move, 0, 0, take=False)) == 2
    assert [grant.meter.used for grant in used] == [1, 0], "it was only asked"


def test_what_covers_one_name_does_not_pay_for_all_below_it(table) -> None:
    table.grant(1, capability.parse("capability://file/state/*?action=write&max=9"))
    table.grant(1, capability.parse("capability://file/state?action=write&max=9"))
    for whole, handle in ((False, 1), (True, 2)):
        assert [one.handle for one in table.spend(1, [Need("file", "write", (b"/state/d",), whole)], 0, 0)] == [handle]


def test_a_rate_says_when_to_try_again(table) -> None:
    table.grant(1, capability.parse("capability://tool?action=exec&rate=2/s"))
    assert [run(table, 1), run(table, 1)] == [[1], [1]]
    with pytest.raises(CallError, match="too soon") as caught:
        run(table, 1, now=100_000_000)
    assert (caught.value.number, caught.value.remedy) == (errno.EAGAIN, "try again in 400 ms")
    assert run(table, 1, now=500_000_000) == [1]


def test_what_has_expired_is_gone_with_all_below_it_and_stays_gone(table) -> None:
    table.grant(1, capability.parse("capability://tool?action=exec&expires=2030-01-01T00:00:00Z"))
    table.grant(1, FILES)
    table.delegate(1, 1, 2)
    at = table.find(1, 1).capability.constraints.expires_ns
    assert (table.expires_ns, table.expire(at - 1)) == (at, ())
    with pytest.raises(CallError, match="expired") as caught:
        table.spend(2, [Need("tool", "exec", (b"x",))], 0, at)
    assert caught.value.number == errno.EPERM
    assert [(row.change, row.who, row.handle) for row in table.expire(at)] == [("expire", 1, 1), ("expire", 2, 1)]
    assert (table.held(2), table.expire(0), table.expires_ns) == ((), (), None)
    table.close(1)
    table.begin(1, table.start(1), 0)
    assert [one.handle for one in table.held(1)] == [2], "not in a further life either, whatever the clock says"


def test_what_was_given_until_a_moment_and_taken_back_is_not_remembered(table) -> None:
    table.grant(1, FILES)
    until = capability.parse("capability://file/state?action=read&expires=2030-01-01T00:00:00Z")
    kept = table.attenuate(1, 1, until).handle
    for _ in range(3 * holdings.SWEPT_MIN):
        table.revoke(1, table.attenuate(1, 1, until).handle)
    assert len(table._expiring) <= holdings.SWEPT_MIN
    assert [row.handle for row in table.expire(until.constraints.expires_ns)] == [kept]


def test_a_life_begins_with_what_was_given_and_not_taken_back_by_others(table) -> None:
    rules = [Rule(ALLOW, one, Mark("bot.yaml", line, 1)) for line, one in enumerate((FILES, NOTES, FILES), 5)]
    assert [row.source for row in table.begin(1, Start.of(rules), 0)] == ["bot.yaml:5", "bot.yaml:6", "bot.yaml:7"]
    tool = table.grant(1, capability.parse("capability://tool?action=exec&max=1&rate=1/h"))
    table.attenuate(1, 1, NOTES)
    run(table, 1)
    table.revoke(1, 1, by=1)
    table.revoke(1, 2)
    table.close(1)
    table.begin(1, table.start(1), 0)
    assert [one.handle for one in table.held(1)] == [1, 3, tool.handle], "what it gave up itself is there again"
    with pytest.raises(CallError) as caught:
        run(table, 1)
    assert caught.value.number == errno.EAGAIN, "a further life does not fill a rate again, but begins to count anew"
    assert run(table, 1, now=3600 * 10**9) == [tool.handle]
    assert table.grant(1, NOTES).handle == 6, "no number is given twice"


def test_what_a_child_begins_with_hangs_below_what_its_parent_holds(table) -> None:
    table.begin(1, Start.of([Rule(ALLOW, FILES, Mark("bot.yaml", 5, 1))]), 0)
    wanted = [Rule(ALLOW, NOTES, Mark("bot.yaml", 5, 1))]
    table.begin(2, Start.of(wanted), 0, table.sources(1, wanted))
    assert [(one.above.holder, one.above.handle) for one in table.held(2)] == [(1, 1)]
    table.revoke(1, 1)
    assert (table.held(2), table.start(2).rules) == ((), {})
    with pytest.raises(CallError, match="agent 1 does not hold") as caught:
        table.sources(1, wanted)
    assert caught.value.number == errno.EPERM


def test_the_first_that_covers_and_has_something_left_is_used(table) -> None:
    table.grant(1, capability.parse("capability://tool/ls?action=exec&max=1"))
    table.grant(1, capability.parse("capability://tool?action=exec&max=1"))
    assert [run(table, 1, b"ls"), run(table, 1, b"ls")] == [[1], [2]]
    for obj in (b"ls", b"x"):
        with pytest.raises(CallError) as caught:
            run(table, 1, obj)
        assert caught.value.number == errno.EDQUOT
    for resource, action in (("file", "read"), ("tool", "read"), ("", "")):
        with pytest.raises(CallError, match="no capability") as caught:
            table.spend(1, [Need(resource, action, (b"ls",))], 0, 0)
        assert caught.value.number == errno.EPERM


def test_what_an_ended_agent_gave_stays_under_its_limits(table) -> None:
    table.grant(1, capability.parse("capability://tool?action=exec&max=1"))
    table.delegate(1, 1, 2)
    assert [row.change for row in table.close(1)] == ["close"]
    assert table.held(1) == ()
    run(table, 2)
    with pytest.raises(CallError, match="at most 1"):
        run(table, 2)
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
        agent = self._pick(data)[0]
        before = self._used()
        try:
            used = self.table.spend(agent, [Need("file", "read", (obj,))], self.now, self.now)
        except CallError:
            assert self._used() == before
            return
        lowest = next(grant for grant in used if grant.holder == agent)
        assert all(above.capability.covers("read", obj) for above in lowest.chain())
        for grant in self.table.tree():
            most = grant.capability.constraints.max
            assert most is None or grant.meter.used <= most

    def _used(self) -> dict:
        return {id(grant): grant.meter.used for grant in self.table.tree() if grant.meter is not None}

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
