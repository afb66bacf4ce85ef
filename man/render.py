#!/usr/bin/env python3
"""Rewrite what comes from the tables: blocks of manual pages, of libc's numbers and of the C client, and whole files.

A block begins with a comment line `BEGIN name` and ends with `END name`; `name` is a function of blocks.py or
blocks_clients.py and its arguments, such as `options run`. Prose around the blocks is written by hand. Files of WHOLE
have no prose: they are JSON.
(The idea: systemd's tools/update-dbus-docs.py.)

Usage: render.py [--check] [FILE...]. With --check nothing is written and the status is 1 when a file would change.
"""

import argparse
import difflib
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import blocks
import blocks_clients  # noqa: F401 - it registers its blocks
import blocks_policies  # noqa: F401 - likewise

from agentix_kernel.authority.policy import document

ROOT = Path(__file__).resolve().parent.parent
WHOLE = {ROOT / "kernel/agentix_kernel/authority/policy" / document.SCHEMA_FILE: document.schema_text}
MARKED = re.compile(r'^(?P<comment>\.\\"|#|//) BEGIN (?P<name>[^\n]+)\n.*?^(?P=comment) END (?P=name)$',
                    re.MULTILINE | re.DOTALL)


def files() -> list[Path]:
    """Every file that may hold blocks."""
    return [*sorted(ROOT.glob("man/man?/*.[1-9]")), ROOT / "userspace/agentix/libc/abi.py",
            *sorted(ROOT.glob("userspace/c/*.h")), *WHOLE]


def render(text: str) -> str:
    """The text with its blocks as the tables say today. Raises KeyError for a block that nobody renders."""
    def block(found: re.Match[str]) -> str:
        comment, (name, *words) = found["comment"], found["name"].split()
        lines = blocks.BLOCKS[name](*words)
        return "\n".join([f"{comment} BEGIN {found['name']}", *lines, f"{comment} END {found['name']}"])
    return MARKED.sub(block, text)


def update(path: Path, *, check: bool) -> bool:
    """Render one file; whether it was already as it should be. Prints the difference when only checking."""
    old = path.read_text() if path.exists() else ""
    new = WHOLE[path]() if path in WHOLE else render(old)
    if old != new and check:
        shown = difflib.unified_diff(old.splitlines(), new.splitlines(), str(path), "rendered", lineterm="")
        print("\n".join(shown))
    elif old != new:
        path.write_text(new)
    return old == new


def main() -> int:
    parser = argparse.ArgumentParser(description="Rewrite the blocks that are rendered from the tables.")
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 when a file would change")
    parser.add_argument("files", nargs="*", type=Path)
    given = parser.parse_args()
    same = [update(path, check=given.check) for path in given.files or files()]
    return 0 if all(same) or not given.check else 1


if __name__ == "__main__":
    sys.exit(main())
