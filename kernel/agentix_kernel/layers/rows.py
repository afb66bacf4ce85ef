"""What doctor and verify answer: one row a layer."""

from typing import Final

from attrs import asdict, frozen

ON: Final = "on"
OFF: Final = "off"
PARTIAL: Final = "partial"


@frozen
class Row:
    """`state` is ON, OFF or PARTIAL; `detail` says what was seen, `remedy` what to do (empty when it is on)."""

    layer: str
    state: str
    detail: str
    remedy: str = ""

    def to_wire(self) -> dict[str, str]:
        return asdict(self)


@frozen
class Found:
    """What one probe has seen."""

    state: str
    detail: str
