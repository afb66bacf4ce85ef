"""What a value of a document may be: each kind reads a node, and says the same as JSON Schema.

A kind complains to a list and returns None, so that all that is wrong with a file is told at once.
"""

import re
from collections.abc import Callable
from typing import Any, Final, Protocol

from attrs import frozen

from agentix_kernel.authority.capability import nearest
from agentix_kernel.authority.constraints import COUNT_MAX
from agentix_kernel.authority.patterns import Malformed
from agentix_kernel.authority.policy.reading import Complaint, Mapping, Mark, Node, Scalar, Sequence

Complaints = list[Complaint]
_INTEGER = re.compile(r"(0|[1-9][0-9]{0,9})\Z")
NUMBER: Final = r"(0|[1-9][0-9]{0,5})(\.[0-9]{1,3})?"
SIZE: Final = r"[1-9][0-9]{0,9}[KMGT]?"
_SHIFTS: Final = {"K": 10, "M": 20, "G": 30, "T": 40}


class Kind(Protocol):
    """`read` gives the value, or None after a complaint."""

    def read(self, node: Node, complaints: Complaints) -> Any: ...
    def schema(self) -> dict[str, Any]: ...


@frozen
class Text:
    """A text that `parse` reads; it raises Malformed. `pattern` is what the schema can say of it."""

    what: str
    parse: Callable[[str], Any] = str
    pattern: str | None = None
    quoted: bool = True
    """Whether it may look like a number to a schema: then both are allowed there."""

    def read(self, node: Node, complaints: Complaints) -> Any:
        if not isinstance(node, Scalar) or not node.text:
            complaints.append(Complaint(node.mark, f"wants {self.what}"))
            return None
        try:
            if self.pattern is not None and not re.fullmatch(self.pattern, node.text):
                raise Malformed(f"{node.text[:200]!r} is not {self.what}", 0)
            return self.parse(node.text)
        except Malformed as error:
            at = error.at if node.plain else 0
            complaints.append(Complaint(Mark(node.mark.file, node.mark.line, node.mark.column + at), error.message))
            return None

    def schema(self) -> dict[str, Any]:
        found: dict[str, Any] = {"description": self.what, "type": "string", "minLength": 1}
        if self.pattern is not None:
            found["pattern"] = f"^({self.pattern})$"
        if not self.quoted:
            found["type"] = ["string", "number"]
        return found


@frozen
class Choice:
    """One of some words."""

    words: tuple[str, ...]

    def read(self, node: Node, complaints: Complaints) -> str | None:
        if isinstance(node, Scalar) and node.text in self.words:
            return node.text
        shown = f"no {node.text[:64]!r} here{nearest(node.text, self.words)}" if isinstance(node, Scalar) else (
            f"wants one of {', '.join(self.words)}")
        complaints.append(Complaint(node.mark, shown))
        return None

    def schema(self) -> dict[str, Any]:
        return {"enum": list(self.words)}


@frozen
class Integer:
    """A whole number without quotes, from `least` to `most`."""

    least: int
    most: int = COUNT_MAX

    def read(self, node: Node, complaints: Complaints) -> int | None:
        if isinstance(node, Scalar) and node.plain and _INTEGER.match(node.text) and (
                self.least <= int(node.text) <= self.most):
            return int(node.text)
        complaints.append(Complaint(node.mark, f"wants a whole number from {self.least} to {self.most}"))
        return None

    def schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.least, "maximum": self.most}


@frozen
class Boolean:
    def read(self, node: Node, complaints: Complaints) -> bool | None:
        if isinstance(node, Scalar) and node.plain and node.text in {"true", "false"}:
            return node.text == "true"
        complaints.append(Complaint(node.mark, "wants true or false"))
        return None

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


@frozen
class Many:
    """A list. `single`: one item may stand without the list."""

    of: Kind
    single: bool = False

    def read(self, node: Node, complaints: Complaints) -> tuple[Any, ...] | None:
        if self.single and not isinstance(node, Sequence):
            node = Sequence((node,), node.mark)
        if not isinstance(node, Sequence):
            complaints.append(Complaint(node.mark, "wants a list: lines that begin with '- '"))
            return None
        found = [self.of.read(item, complaints) for item in node.items]
        return tuple(value for value in found if value is not None)

    def schema(self) -> dict[str, Any]:
        of = self.of.schema()
        many = {"type": "array", "items": of}
        return {"anyOf": [of, many]} if self.single else many


@frozen
class Else:
    """One word that stands for a value, or else keys."""

    word: str
    value: Any
    keys: "Keys"

    def read(self, node: Node, complaints: Complaints) -> Any:
        if isinstance(node, Scalar) and node.text == self.word:
            return self.value
        if isinstance(node, Mapping):
            return self.keys.read(node, complaints)
        names = ", ".join(key.name for key in self.keys.keys)
        complaints.append(Complaint(node.mark, f"wants {self.word}, or keys: {names}"))
        return None

    def schema(self) -> dict[str, Any]:
        # Editors may read YAML 1.1, to which on and off are truth values.
        return {"anyOf": [{"enum": [self.word, False]}, self.keys.schema()]}


@frozen
class Key:
    """One key of a mapping."""

    name: str
    kind: Kind
    doc: str
    required: bool = False


@frozen
class Keys:
    """A mapping with known keys only. Read to a dict of those that are there."""

    keys: tuple[Key, ...]

    def read(self, node: Node, complaints: Complaints) -> dict[str, Any] | None:
        if not isinstance(node, Mapping):
            complaints.append(Complaint(node.mark, f"wants keys: {', '.join(key.name for key in self.keys)}"))
            return None
        known = {key.name: key for key in self.keys}
        for name, mark in node.marks.items():
            if name not in known:
                complaints.append(Complaint(mark, f"no key {name[:64]!r}{nearest(name, known)}"))
        complaints += [Complaint(node.mark, f"key {key.name!r} is missing") for key in self.keys
                       if key.required and key.name not in node.items]
        found = {name: known[name].kind.read(value, complaints) for name, value in node.items.items() if name in known}
        return {name: value for name, value in found.items() if value is not None}

    def schema(self) -> dict[str, Any]:
        properties = {key.name: {**key.kind.schema(), "description": key.doc} for key in self.keys}
        found: dict[str, Any] = {"type": "object", "additionalProperties": False, "properties": properties}
        required = [key.name for key in self.keys if key.required]
        return found | ({"required": required} if required else {})


def read_size(text: str) -> int:
    """Bytes; K, M, G and T are powers of 1024."""
    return int(text[:-1]) << _SHIFTS[text[-1]] if text[-1] in _SHIFTS else int(text)
