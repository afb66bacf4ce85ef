"""Builds the C client for tests, with the sanitizers: what they find ends the program. Reached as `import c_client`."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "userspace" / "c"
WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror")
SANITIZERS = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def build(source: Path, folder: Path, *flags: str) -> Path:
    """A program of `source` and the client, in `folder`; fails the test with the compiler's words."""
    program = folder / source.stem
    built = subprocess.run(["cc", "-std=c11", *WARNINGS, *flags, "-pthread", f"-I{SOURCES}", "-o", program, source,
                            SOURCES / "agentix.c"], capture_output=True, text=True, check=False)
    assert (built.returncode, built.stderr) == (0, "")
    return program
