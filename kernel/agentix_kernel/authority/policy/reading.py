"""YAML to plain nodes that know their line and column: bounded, and of the safe part of the language only.

Refused: over 64 KiB, over 8,192 values, deeper than 12, anchors and aliases (the bombs), tags, several documents,
duplicate keys, keys that are not plain text, anything that is not UTF-8. No value is guessed at: `no`, `012` and `1e3`
stay the text that was written, and what they mean is said by the kind that reads them. PyYAML scans and parses; the
nodes are built here from its events, so that nothing is made before it was counted.
"""

import errno
from collections.abc import Iterator
from typing import Any, Final

import yaml
from attrs import define, field, frozen

from agentix_syscalls.errors import CallError

SIZE_MAX: Final = 64 << 10
NODES_MAX: Final = 8192
DEPTH_MAX: Final = 12
SHOWN_MAX: Final = 20


@frozen
class Mark:
    """A place in a file; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


NOWHERE: Final = Mark("", 0, 0)


@frozen
class Scalar:
    text: str
    mark: Mark
    plain: bool
    """Written without quotes."""


@frozen
class Sequence:
    items: tuple["Node", ...]
    mark: Mark


@frozen
class Mapping:
    items: dict[str, "Node"]
    marks: dict[str, Mark]
    """Where each key stands."""
    mark: Mark


Node = Scalar | Sequence | Mapping


@frozen
class Complaint:
    """What is wrong with a document, and where."""

    mark: Mark
    message: str

    def __str__(self) -> str:
        return f"{self.mark}: {self.message}"


class BadPolicy(CallError):  # noqa: N818 - it is a document, not an error of ours
    """A document is refused (EINVAL). `complaints` are all that were found, in the file's order."""

    def __init__(self, complaints: list[Complaint]) -> None:
        assert complaints
        self.complaints = tuple(sorted(complaints, key=lambda one: (one.mark.line, one.mark.column)))
        more = len(self.complaints) - SHOWN_MAX
        lines = [*map(str, self.complaints[:SHOWN_MAX]), *([f"and {more} more"] if more > 0 else [])]
        super().__init__(errno.EINVAL, "\n".join(lines))


def read(raw: bytes, file: str) -> Node:
    """The document's node. Raises BadPolicy."""
    text = _decoded(raw, file)
    try:
        builder = _Builder(file, yaml.parse(text, yaml.SafeLoader))
        return builder.document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = _mark(file, mark) if mark is not None else Mark(file, 1, 1)
        raise BadPolicy([Complaint(where, f"not YAML: {error.problem or error.context}")]) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - (text.rfind("\n", 0, error.position) + 1) + 1
        raise BadPolicy([Complaint(Mark(file, line, column), f"a character that YAML does not allow: "
                                   f"U+{ord(text[error.position]):04X}")]) from None


def _decoded(raw: bytes, file: str) -> str:
    start = Mark(file, 1, 1)
    if len(raw) > SIZE_MAX:
        raise BadPolicy([Complaint(start, f"{len(raw):,} bytes; a policy has at most {SIZE_MAX:,}")])
    if raw.startswith((b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf", b"\0")):
        raise BadPolicy([Complaint(start, "not plain UTF-8 (a byte order mark, or UTF-16): save it as UTF-8")])
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - (raw.rfind(b"\n", 0, error.start) + 1) + 1
        raise BadPolicy([Complaint(Mark(file, line, column), f"not UTF-8: byte 0x{raw[error.start]:02x}")]) from None


def _mark(file: str, mark: Any) -> Mark:
    return Mark(file, mark.line + 1, mark.column + 1)


@define
class _Builder:
    """Nodes from events. Recursion is bounded by DEPTH_MAX."""

    file: str
    events: Iterator[Any]
    count: int = field(init=False, default=0)

    def document(self) -> Node:
        next(self.events)  # the stream's start
        event = next(self.events)
        if isinstance(event, yaml.StreamEndEvent):
            raise self._bad(event, "empty: a policy has at least a version")
        if event.version is not None or event.tags:
            raise self._bad(event, "directives (%YAML, %TAG) have no place here")
        node = self._node(next(self.events), 1)
        next(self.events)  # the document's end
        event = next(self.events)
        if not isinstance(event, yaml.StreamEndEvent):
            raise self._bad(event, "a second document: one file is one policy")
        return node

    def _node(self, event: Any, depth: int) -> Node:
        self.count += 1
        if self.count > NODES_MAX:
            raise self._bad(event, f"over {NODES_MAX:,} values")
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise self._bad(event, "anchors and aliases (& and *) are not read: write it out, or quote the text")
        if event.tag is not None:
            raise self._bad(event, f"tags are not read: {event.tag}")
        if isinstance(event, yaml.ScalarEvent):
            return Scalar(event.value, _mark(self.file, event.start_mark), event.style is None)
        if depth >= DEPTH_MAX:
            raise self._bad(event, f"nested deeper than {DEPTH_MAX}")
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(event, depth)
        return self._mapping(event, depth)

    def _sequence(self, start: Any, depth: int) -> Sequence:
        items: list[Node] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self._node(event, depth + 1))
        return Sequence(tuple(items), _mark(self.file, start.start_mark))

    def _mapping(self, start: Any, depth: int) -> Mapping:
        items: dict[str, Node] = {}
        marks: dict[str, Mark] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self._node(event, depth + 1)
            if not isinstance(key, Scalar):
                raise self._bad(event, "a key is plain text")
            if key.text in items:
                raise BadPolicy([Complaint(key.mark, f"key {key.text!r} again; first at {marks[key.text]}")])
            if key.text == "<<":
                raise self._bad(event, "merge keys (<<) are not read")
            items[key.text] = self._node(next(self.events), depth + 1)
            marks[key.text] = key.mark
        return Mapping(items, marks, _mark(self.file, start.start_mark))

    def _bad(self, event: Any, message: str) -> BadPolicy:
        return BadPolicy([Complaint(_mark(self.file, event.start_mark), message)])
