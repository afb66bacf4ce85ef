"""The C client against a real kernel: every call of agentix.h, under the sanitizers, and what make builds of it."""

import os
import subprocess

import c_client
import pytest


def test_every_call_of_the_header(kernel, tmp_path):
    # The sanitizer's search for leaks at exit traces the process, which no agent may; tests of replies look for them.
    program = c_client.build(c_client.ROOT / "tests/data/c/conformance.c", tmp_path, *c_client.SANITIZERS)
    done = kernel.ctl("run", "--memory", "1G", "--spawn-max", "20", "--deny", "UNLINK:/state/kept",
                      "--env", "ASAN_OPTIONS=detect_leaks=0", "--bind-ro", f"{program}:/opt/c", "--", "/opt/c")
    assert (done.stdout, done.returncode) == ("all held", 5), done.stderr
    assert done.stderr == ("as it must be: UNLINK /state/kept is denied (deny UNLINK:/state/kept); "
                           "said when it or an ancestor was spawned: only without deny UNLINK:/state/kept would it be "
                           "permitted\n")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """What `make` builds, with warnings as errors and optimised."""
    folder = tmp_path_factory.mktemp("c")
    flags = " ".join(("-O2", *c_client.WARNINGS))
    subprocess.run(["make", "-C", c_client.SOURCES, f"O={folder}", f"CFLAGS={flags}"], check=True, capture_output=True)
    return folder


def test_the_example_works_and_ends_well(kernel, built):
    agent = kernel.spawn("--name", "counter", "--bind-ro", f"{built}/example:/opt/example", "--", "/opt/example")
    kernel.until_logged(agent, f"agent {agent} waits")
    for name, text in {"a": "one two\nthree", "b": "\n" * 100_000}.items():
        with open(kernel.tree(agent, f"state/inbox/{name}"), "x") as file:
            file.write(text)
    kernel.ctl("kill", "-USR1", agent, check=0)

    def answer(name):
        with open(kernel.tree(agent, f"state/{name}")) as file:
            return file.read()

    kernel.until(lambda: not os.listdir(kernel.tree(agent, "state/inbox")))
    assert answer("outbox/a") == "1 lines, 3 words, 13 bytes, 1 files\n"
    assert answer("outbox/b") == "100000 lines, 0 words, 100000 bytes, 1 files\n"
    kernel.ctl("kill", agent, check=0)
    kernel.ctl("wait", agent, check=0)
    assert answer("totals") == "100001 lines, 3 words, 100013 bytes, 2 files\n"
    assert "counted 2 files" in kernel.ctl("logs", agent).stdout


def test_what_is_installed_is_enough_to_link(built, tmp_path):
    subprocess.run(["make", "-C", c_client.SOURCES, f"O={built}", f"DESTDIR={tmp_path}", "PREFIX=/usr", "install"],
                   check=True, capture_output=True)
    source = tmp_path / "pid.cc"
    source.write_text("#include <agentix.h>\nint main() { return agx_getpid() == -1 ? 0 : 1; }\n")
    subprocess.run(["cc", "-x", "c", "-std=c99", *c_client.WARNINGS, f"-I{tmp_path}/usr/include", "-o",
                    tmp_path / "pid", source, "-x", "none", tmp_path / "usr/lib/libagentix.a"], check=True)
    assert subprocess.run([tmp_path / "pid"], env={"AGENTIX_SOCKET": "/nowhere"}, check=False).returncode == 0
