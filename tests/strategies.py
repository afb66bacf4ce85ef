"""Hypothesis strategies that several tests draw from. Reached as `import strategies` (pyproject: pythonpath)."""

from hypothesis import strategies as st

from agentix_kernel.authority import patterns as _patterns
from agentix_kernel.authority.capability import Capability
from agentix_kernel.authority.constraints import PERIODS, SECOND_NS, Constraints, Rate
from agentix_kernel.authority.patterns import Pattern
from agentix_syscalls import types, wire
from agentix_syscalls.capabilities import RESOURCES

INTERESTING_NUMBERS = (0, 1, -1, 0xFFFF, 1 << 31, (1 << 32) - 1, types.I63_MAX, types.I63_MAX + 1, types.U64_MAX)

numbers = st.sampled_from(INTERESTING_NUMBERS) | st.integers(-(1 << 63), types.U64_MAX)

scalars = st.none() | st.booleans() | numbers | st.floats() | st.text(max_size=20) | st.binary(max_size=20)

values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4).map(tuple) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
"""What msgpack can carry, as wire.decode gives it back."""

arguments = st.lists(values, max_size=6).map(tuple)
"""Positional arguments as a hostile agent may send them."""


@st.composite
def mutated_bodies(draw: st.DrawFn) -> bytes:
    """Bodies that are almost right: a packed value with a few bytes changed, cut off or doubled."""
    body = bytearray(wire.pack(draw(values)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(body)))
        action = draw(st.sampled_from(("flip", "insert", "cut", "double")))
        if action == "flip" and at < len(body):
            body[at] = draw(st.integers(0, 255))
        elif action == "insert":
            body[at:at] = draw(st.binary(max_size=5))
        elif action == "cut":
            del body[at:]
        elif action == "double":
            body += body[:64]
    return bytes(body)


bodies = st.binary(max_size=200) | mutated_bodies()

# Few letters, so that patterns and objects meet often.
_pieces = st.sampled_from([b"", b"a", b"b", b"ab", b"ba", b"aa"])
_rare = st.sampled_from([b"*", b"%", b"?&", b"\xff", "\u00e9".encode(), b" ", b"=,"])
_literals = st.sampled_from([b"a", b"b", b"ab", b"ba", b"aba"])
_names = (_literals | _rare).map(lambda raw: (raw,)) | st.tuples(_pieces, _pieces) | (
    st.tuples(_pieces, _literals, _pieces))

objects = st.lists(_literals | _rare, max_size=4).map(b"/".join)
"""What is asked about, canonical."""


@st.composite
def patterns(draw: st.DrawFn) -> Pattern:
    """As parse() makes them: no `**` twice running, a plain last name followed by one."""
    names: list[_patterns.Name] = []
    for name in draw(st.lists(_names | st.just(_patterns.DEPTH), max_size=4)):
        if name != _patterns.DEPTH or names[-1:] != [name]:
            names.append(name)
    if not names or len(names[-1]) == 1:
        names.append(_patterns.DEPTH)
    return Pattern(tuple(names))


_rates = st.builds(Rate, st.integers(1, 20), st.sampled_from(list(PERIODS)))


@st.composite
def constraints(draw: st.DrawFn) -> Constraints:
    return Constraints(
        draw(st.none() | st.integers(1, 9).map(lambda n: n * SECOND_NS // 1000)), draw(st.none() | _rates),
        draw(st.none() | st.integers(1, 5)), draw(st.none() | st.frozensets(_literals, min_size=1, max_size=3)),
        draw(st.none() | st.integers(1, 20).map(lambda n: n * SECOND_NS)))


@st.composite
def capabilities(draw: st.DrawFn, resource: str | None = None) -> Capability:
    row = draw(st.sampled_from([row for row in RESOURCES if resource in {None, row.name}]))
    actions = draw(st.frozensets(st.sampled_from(row.action_names), min_size=1))
    fixed = st.lists(_names, min_size=row.depth or 0, max_size=row.depth or 0).map(tuple).map(Pattern)
    path = draw(patterns() if row.depth is None else fixed)
    return Capability(row.name, path, actions, draw(st.just(Constraints()) | constraints()))
