"""Tells who looks for kernels that this one runs: a link in control.KERNELS_DIR, named as its cgroups, to its prefix.

The directory is root's, and stays one in which others only look: agentctl follows no link that root did not make.
"""

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress

from agentix_syscalls import control


@contextmanager
def listed(name: str, prefix: str) -> Generator[None]:
    """While it is entered, the kernel below `prefix` can be found. Raises OSError."""
    os.makedirs(control.KERNELS_DIR, exist_ok=True)
    os.chmod(control.KERNELS_DIR, 0o755)  # whatever our umask is
    link = f"{control.KERNELS_DIR}/{name}"
    with suppress(FileNotFoundError):  # of a kernel on this prefix that was killed
        os.unlink(link)
    os.symlink(prefix, link)
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            os.unlink(link)
