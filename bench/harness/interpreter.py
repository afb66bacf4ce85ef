"""Find the project's interpreter, so that `bench/NAME` works from any shell. Imports the standard library alone."""

import importlib.util
import os
import sys

NEEDED = ("agentix_kernel", "agentix", "attrs", "click")


def enter() -> None:
    """Go on if this interpreter has the project installed, else start again under .venv/bin/python of the clone."""
    if all(importlib.util.find_spec(name) for name in NEEDED):
        return
    top = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    python = f"{top}/.venv/bin/python"
    if sys.executable == python or not os.access(python, os.X_OK):
        sys.exit(f"{sys.argv[0]}: the project is not installed for {sys.executable}; run .ci/prepare kernel bench")
    os.execv(python, [python, *sys.argv])
