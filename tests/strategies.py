"""Hypothesis strategies that several tests draw from. Reached as `import strategies` (pyproject: pythonpath)."""

from hypothesis import strategies as st

from agentix_syscalls import types, wire

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
