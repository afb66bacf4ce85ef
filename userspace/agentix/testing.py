"""A private kernel for tests of agents, as a fixture of pytest.

In the top-level conftest.py or in a module of tests: `pytest_plugins = ["agentix.testing"]`. Then

    def test_it_greets(agentix_kernel):
        assert "hello" in agentix_kernel.run("print('hello')").stdout

The kernel is booted by the first test that asks for it (about a second), shared by the session and shut down with it,
also after Ctrl-C; agents that are left are killed. It takes root: without it such tests are skipped, or fail where
the environment variable AGENTIX_REQUIRED is set. Nothing of this is loaded in a run of pytest that does not name it.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

import pytest

from agentix.agentctl.cli import Failure
from agentix.private import Kernel, Result, private_kernel

NOT_ROOT: Final = (
    "a private Agentix kernel takes root (it mounts, makes cgroups and gives each agent a uid): "
    "sudo -E python -m pytest ...; with AGENTIX_REQUIRED=1 this is a failure")


@pytest.fixture(scope="session")
def agentix_kernel() -> Iterator[Kernel]:
    """A private kernel for the session."""
    if os.geteuid() != 0:
        if os.environ.get("AGENTIX_REQUIRED"):
            pytest.fail(NOT_ROOT, pytrace=False)
        pytest.skip(NOT_ROOT)
    with ExitStack() as stack:
        try:
            kernel = stack.enter_context(private_kernel())
        except Failure as failure:
            pytest.fail(f"no kernel for the tests: {failure}", pytrace=False)
        yield kernel


__all__ = ["Kernel", "Result", "agentix_kernel", "private_kernel"]
