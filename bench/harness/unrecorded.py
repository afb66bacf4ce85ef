"""agentd that leaves system calls out of the record: what recording costs is the difference. For bench/recorder."""

import os
import sys
from pathlib import Path
from typing import Final

from agentix_kernel import daemon, dispatch

BENCH: Final = Path(__file__).parents[1]


def program(folder: str) -> str:
    """Put a script that is this agentd into a folder; its path."""
    path = f"{folder}/agentd"
    text = (f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(BENCH)!r})\n"
            "from harness import unrecorded\nunrecorded.main()\n")
    Path(path).write_text(text)
    os.chmod(path, 0o755)
    return path


def _nothing(*_: object, **__: object) -> int:
    return 0


def main() -> None:
    dispatch._note = _nothing
    daemon.main()
