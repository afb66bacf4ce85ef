"""The C side: built with cc -O2 in the run that uses it, so that both sides of a ratio know the same machine."""

import os
import subprocess
from collections.abc import Generator
from contextlib import contextmanager

import click

SOURCES = f"{os.path.dirname(os.path.abspath(__file__))}/native"


def build(name: str, folder: str) -> str:
    """Compile native/<name>.c into `folder`; the path of the program. Raises ClickException when it cannot be."""
    target = f"{folder}/{name}"
    argv = ["cc", "-O2", "-std=gnu11", "-Wall", "-Wextra", "-o", target, f"{SOURCES}/{name}.c"]
    try:
        subprocess.run(argv, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise click.ClickException("no cc on this machine; apt-get install gcc libc6-dev") from None
    except subprocess.CalledProcessError as error:
        raise click.ClickException(f"{name}.c does not compile:\n{error.stderr}") from None
    return target


@contextmanager
def echo_server(program: str, socket_path: str) -> Generator[int]:
    """Run the echo server on a socket; yields its pid once it listens."""
    with subprocess.Popen([program, socket_path], stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            if server.stdout.readline() != b"ready\n":
                raise click.ClickException("the echo server did not start")
            yield server.pid
        finally:
            server.kill()
