"""What stands in the rendered blocks: one function a block, giving its lines."""

from collections.abc import Callable, Iterator
from typing import Final

from agentix_syscalls import calls, signals

BLOCKS: Final[dict[str, Callable[..., list[str]]]] = {}
"""Blocks by name. A new page registers its own with @block."""


def block(render: Callable[..., list[str]]) -> Callable[..., list[str]]:
    BLOCKS[render.__name__.removesuffix("_").replace("_", "-")] = render
    return render


def _constants() -> Iterator[tuple[str, int]]:
    """The plain numbers that calls.py defines, in its order: SYS_*, O_*, SIG_* and so on."""
    for name, value in vars(calls).items():
        if name.isupper() and type(value) is int:
            yield name, value


@block
def abi() -> list[str]:
    """The numbers that libc needs at import, as Python."""
    numbers = [*_constants(), ("DOORBELL", signals.DOORBELL), ("ALL_SIGNALS", signals.ALL_MASK)]
    lines = [f"{name}: Final = {value}" for name, value in numbers]
    lines += ["", "", "class Signals(enum.IntEnum):", '    """Agentix\'s signals. The numbers are not Linux\'s."""', ""]
    lines += [f"    {row.name} = {row.number}" for row in signals.SIGNALS]
    lines += ["", ""]
    lines += [f"{row.name}: Final = Signals.{row.name}" for row in signals.SIGNALS]
    names = sorted([name for name, _ in numbers] + [row.name for row in signals.SIGNALS])
    lines += ["", "__all__ = [", *(f'    "{name}",' for name in [*names, "Signals"]), "]"]
    return lines
