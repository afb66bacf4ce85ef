"""The files of runtimes and profiles: what they may say, who may write them, and what a bad one is told."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from agentix_kernel.config import ConfigError
from agentix_kernel.config import load as load_config
from agentix_kernel.confine import zygotes
from agentix_kernel.runtimes import inforce
from agentix_kernel.runtimes.files import PROFILE_KEYS, load
from agentix_kernel.world import OWN_RUNTIME
from agentix_syscalls import __version__, spawn
from agentix_syscalls.errors import CallError


@pytest.fixture
def folder(tmp_path):
    for name in ("runtimes", "profiles"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture
def venv(tmp_path):
    """A virtual environment without packages, of the interpreter that these tests' own is made from."""
    path = tmp_path / "venv"
    subprocess.run([os.path.realpath(sys.executable), "-m", "venv", "--without-pip", path], check=True)
    return path


def read(folder, **files):
    """Load with these files, `runtime_NAME` and `profile_NAME`."""
    for name, text in files.items():
        kind, _, stem = name.partition("_")
        (folder / f"{kind}s" / f"{stem}.toml").write_text(text)
    return load(load_config(str(folder)), 1)


@pytest.fixture
def refused(folder):
    """Load, and return the one line that it is refused with."""
    def refuse(**files):
        with pytest.raises(ConfigError) as caught:
            read(folder, **files)
        message = str(caught.value)
        assert "\n" not in message
        assert len(message) < 1000
        return message
    return refuse


def test_no_folders_are_no_runtimes(tmp_path):
    settings = load(load_config(str(tmp_path)), 1)
    assert (settings.runtimes, settings.profiles) == ({}, {})


def test_all_keys(folder, venv):
    (folder / "data").mkdir()
    (folder / "runtimes" / "README").write_text("not one of them")
    settings = read(
        folder, runtime_ml=f'python = "{venv}"\npreload = ["json", "xml.dom"]\nbinds_ro = ["{folder}/data:/data"]\n'
        'env = {A = "1"}\ndoc = "for models"\n',
        profile_small=f'memory_bytes = 33554432\ncpus = 0.5\npids = 9\ntimeout_s = 60\ndeny = ["UNLINK:/state"]\n'
        f'mode = "strict"\nspawn_max = 2\nenv = {{B = "2"}}\ncwd = "/tmp"\nruntime = "ml"\n'
        f'binds_ro = ["{folder}/data:/more", "/etc/hostname:/name"]\n', profile_plain="")
    runtime = settings.runtimes["ml"].runtime
    assert (runtime.name, runtime.executable, runtime.venv) == ("ml", f"{venv}/bin/python", str(venv))
    assert (runtime.preload, runtime.binds) == (("json", "xml.dom"), ((f"{folder}/data", "/data"),))
    assert (runtime.env, settings.runtimes["ml"].given["doc"]) == ((("A", "1"),), "for models")
    assert str(venv) in runtime.folders
    assert settings.runtimes["ml"].interpreter.version == ".".join(map(str, sys.version_info[:3]))
    profile = settings.profiles["small"]
    assert profile.options["deny"] == ("UNLINK:/state",)
    assert {**profile.options, "deny": 0} == {
        "memory_bytes": 33554432, "cpus": 0.5, "pids": 9, "timeout_s": 60.0, "deny": 0, "mode": "strict",
        "spawn_max": 2, "env": {"B": "2"}, "cwd": "/tmp", "runtime": "ml"}
    assert [(bind.target, bind.writable) for bind in profile.binds] == [("/more", False), ("/name", False)]
    assert os.readlink(f"/proc/self/fd/{profile.binds[1].source_fd}") == os.path.realpath("/etc/hostname")
    before = len(os.listdir("/proc/self/fd"))
    settings.close()
    assert len(os.listdir("/proc/self/fd")) == before - 2


def test_a_profile_may_say_what_a_spawn_may_but_for_what_is_the_agents_own():
    assert {option.name for option in spawn.OPTIONS} - {key.name for key in PROFILE_KEYS} == {
        "name", "source", "binds", "profile", "stdin", "terminal", "capabilities"}


LONG = "x" * 1_000_000


@pytest.mark.parametrize(("files", "told"), [
    ({"profile_a": "memory = 3"}, ["profiles/a.toml", "unknown key 'memory'", "'memory_bytes'", "agentix-profiles(5)"]),
    ({"runtime_a": "pyton = '/x'"}, ["runtimes/a.toml", "'pyton'", "'python'", "agentix-runtimes(5)"]),
    ({"runtime_a": "[python]\nx = 1"}, ["a.toml: python: wants a path"]), ({"runtime_a": "python ="}, ["a.toml"]),
    ({"profile_a": "memory_bytes = 1"}, ["a.toml: memory_bytes", "too few"]),
    ({"profile_a": "mode = 'mild'"}, ["'mild'", "strict, enforce, audit"]),
    ({"profile_a": "deny = ['NOPE']"}, ["no system call is named 'NOPE'"]),
    ({"profile_a": "env = {'a=b' = 'c'}"}, ["a.toml: env: 'a=b'"]),
    ({"profile_a": "name = 'x'"}, ["unknown key 'name'"]),
    ({"profile_a": f"runtime = '{LONG}'"}, ["runtime: text is over 4096 bytes"]),
    ({"profile_a": f"{LONG} = 1"}, ["unknown key 'xxx"]), ({"runtime_a": f"doc = ['{LONG}']"}, ["doc: wants text"]),
    ({"profile_a": "runtime = 'gone'", "profile_b": "runtime = 'gone'", "profile_c": ""},
     ["profiles/a.toml, ", "profiles/b.toml: runtime: there is no runtime 'gone'", "runtimes/gone.toml"]),
    ({"runtime_default": ""}, ["'default' stands for"]), ({"profile_1st": ""}, ["'1st' is not a name"]),
    ({"runtime_a": "python = '/nowhere/venv'"}, ["python: /nowhere/venv: no such interpreter", "python3 -m venv"]),
    ({"runtime_a": "python = '/usr'"}, ["/usr: not a virtual environment", "pyvenv.cfg"]),
    ({"runtime_a": "python = '/etc/passwd'"}, ["/etc/passwd: not an executable"]),
    ({"runtime_a": "python = '/bin/false'"}, ["/bin/false does not run"]),
    ({"runtime_a": "python = 'venv'"}, ["absolute path"]),
    ({"runtime_a": "preload = ['os; import x']"}, ["'os; import x' is not the name of a module"]),
    ({"runtime_a": "preload = 'os'"}, ["preload: wants an array"]),
    ({"runtime_a": "binds_ro = ['/usr']"}, ["'/usr' is not HOST:PATH"]),
    ({"runtime_a": "binds_ro = ['/etc/passwd:/p']"}, ["not a folder"]),
    ({"runtime_a": "binds_ro = ['/nowhere:/p']"}, ["/nowhere: no such file"]),
    ({"profile_a": "binds_ro = ['/usr/share:/usr/share']"}, ["/usr is there already"]),
    ({"profile_a": "binds_ro = ['/usr/share:/a', '/usr/lib:/a/b']"}, ["/a/b: /a is there already"]),
    ({"profile_a": "binds_ro = ['/proc/1:/p']"}, ["would show /proc"]),
    ({"profile_a": "binds_ro = ['/:/host']"}, ["/ would show"]),
    ({"profile_a": "binds_ro = ['/usr/share://s']"}, ["not a plain path"]),
])
def test_a_bad_file_is_refused_in_one_clear_line(refused, files, told):
    message = refused(**files)
    assert all(word in message for word in told), message


def test_what_is_the_kernels_own_is_not_shown(folder, refused):
    (folder / "state" / "journal").mkdir(parents=True)
    assert "not for agents" in refused(profile_a=f"binds_ro = ['{folder}/state/journal:/j']")


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def test_a_refused_load_keeps_no_descriptor(folder, refused):
    before = descriptors()
    refused(profile_a="binds_ro = ['/usr/share:/a', '/usr/lib:/b']", profile_b="nope = 1")
    refused(profile_a="binds_ro = ['/usr/share:/a', '/usr/lib:/a']", profile_b="")
    assert descriptors() == before


@pytest.mark.parametrize("change", [lambda path: os.chown(path, 12345, 12345, follow_symlinks=False),
                                    lambda path: os.chmod(path, 0o666)], ids=["owner", "mode"])
@pytest.mark.parametrize("part", [
    "runtimes", "runtimes/a.toml", "venv", "venv/bin", "venv/pyvenv.cfg",
    f"venv/lib/python3.{sys.version_info.minor}/site-packages/deep/module.py"])
def test_who_is_not_root_can_change_nothing_that_root_runs(folder, venv, refused, part, change):
    deep = venv / "lib" / f"python3.{sys.version_info.minor}" / "site-packages" / "deep"
    deep.mkdir()
    (deep / "module.py").write_text("")
    read(folder, runtime_a=f"python = '{venv}'").close()
    change(folder / part)
    message = refused()
    assert f"others than root may change {folder / part} (" in message
    assert "chown" in message


def test_a_link_of_somebody_else_on_the_way_is_refused(folder, venv, refused):
    """Also the second of two: root's link leads to somebody's, which leads to root's."""
    os.symlink(venv, folder / "theirs")
    os.lchown(folder / "theirs", 12345, 12345)
    os.symlink(folder / "theirs", folder / "ours")
    assert f"may change {folder}/theirs" in refused(runtime_a=f"python = '{folder}/ours/bin/python'")


def test_a_link_in_a_venv_that_leads_to_somebody_elses_folder_is_refused(folder, venv, refused):
    (folder / "home").mkdir()
    (folder / "home" / "module.py").write_text("")
    os.chown(folder / "home" / "module.py", 12345, 12345)
    os.symlink(folder / "home", venv / "lib" / "linked")
    assert f"may change {folder}/home/module.py" in refused(runtime_a=f"python = '{venv}'")


def test_a_path_file_that_names_somebody_elses_folder_is_refused(folder, venv, refused):
    (folder / "home").mkdir()
    os.chown(folder / "home", 12345, 12345)
    packages = venv / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    (packages / "theirs.pth").write_text(f"{folder}/home\n")
    assert f"may change {folder}/home" in refused(runtime_a=f"python = '{venv}'")


def test_what_is_shown_cannot_be_led_elsewhere_but_may_be_anybodys(folder, refused):
    (folder / "home" / "data").mkdir(parents=True)
    os.chown(folder / "home" / "data", 12345, 12345)
    read(folder, profile_a=f"binds_ro = ['{folder}/home/data:/d']").close()
    os.chown(folder / "home", 12345, 12345)
    assert f"may change {folder}/home (uid 12345" in refused()


def test_an_agentix_of_another_version_in_the_venv_is_refused(folder, venv, refused):
    packages = venv / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    info = packages / "agentix-0.0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: agentix\nVersion: 0.0.1\n")
    assert f"its agentix is 0.0.1, this kernel's {__version__}" in refused(runtime_a=f"python = '{venv}'")


def test_an_old_python_is_refused(folder, refused):
    python = folder / "python"
    python.write_text("#!/bin/sh\necho '[[3, 10, 4]]'\n")
    python.chmod(0o755)
    assert "Python 3.10.4, and agents need 3.11 or newer" in refused(runtime_a=f"python = '{python}'")


def test_a_change_of_the_venv_is_seen(folder, venv):
    (folder / "data").mkdir()
    text = f"python = '{venv}'\nbinds_ro = ['{folder}/data:/data']"
    runtime = read(folder, runtime_a=text).runtimes["a"].runtime
    (folder / "data" / "new").write_text("what is in it may change")
    assert not zygotes.changed(runtime)
    os.mkdir(venv / "lib" / f"python3.{sys.version_info.minor}" / "site-packages" / "new")
    assert zygotes.changed(runtime)
    runtime = read(folder).runtimes["a"].runtime
    assert not zygotes.changed(runtime)
    (folder / "data").rename(folder / "old")
    assert zygotes.changed(runtime)
    (folder / "data").mkdir()
    assert zygotes.changed(runtime)
    assert not zygotes.changed(read(folder, runtime_b="preload = ['json']").runtimes["b"].runtime)


def test_flags_go_before_the_profile(folder):
    settings = read(folder, runtime_a="", profile_p="memory_bytes = 33554432\npids = 9\nruntime = 'a'\n"
                    "env = {A = '1', B = '1'}\ndeny = ['UNLINK']\nbinds_ro = ['/usr/share:/a']")
    kernel = SimpleNamespace(settings=settings)
    given = {"profile": "p", "pids": 20, "env": {"B": "2"}, "deny": ("MKDIR",), "runtime": "default"}
    options, binds = inforce.complete(kernel, given)
    assert options == {"profile": "p", "memory_bytes": 33554432, "pids": 20, "env": {"A": "1", "B": "2"},
                       "deny": ("UNLINK", "MKDIR"), "runtime": "default"}
    [bind] = binds
    settings.close()
    os.close(bind.source_fd)  # its own
    assert inforce.complete(kernel, {"pids": 3}) == ({"pids": 3}, ())


@pytest.mark.parametrize(("given", "told"), [
    ({"profile": "q"}, "no profile 'q'; the nearest is 'p'"), ({"runtime": "x"}, "no runtime 'x'; there are no"),
    ({"profile": "p", "runtime": "x"}, "no runtime 'x'")])
def test_a_name_that_is_none(folder, given, told):
    settings = read(folder, profile_p="binds_ro = ['/usr/share:/a']")
    before = descriptors()
    with pytest.raises(CallError) as caught:
        inforce.complete(SimpleNamespace(settings=settings), given)
    assert told in f"{caught.value.message}; {caught.value.remedy}"
    assert descriptors() == before
    settings.close()


def test_our_packages_come_last_in_another_interpreter(venv):
    """And the default's command line needs no such help."""
    code = (f"import sys; sys.path += {list(zygotes.own_packages())!r}; import agentix.init, agentix.libc, "
            "agentix_kernel.confine.zygote")
    assert subprocess.run([venv / "bin" / "python", "-I", "-c", code], check=False).returncode == 0
    assert zygotes.command(OWN_RUNTIME)[-1] == "agentix_kernel.confine.zygote"


GIVE_UP = """
import os, signal
used.set_no_new_privs(1); used.set_dumpable(0); used.set_pdeathsig(signal.SIGUSR1)
for capability in used.ALL_CAPS:
    try:
        if used.capbset_read(capability):
            used.capbset_drop(capability)
    except OSError:
        break
print([line for line in open("/proc/self/status") if line.startswith(("NoNewPrivs", "CapBnd"))])
"""


@pytest.mark.parametrize("used", ["from agentix_kernel.confine import plain_prctl as used",
                                  "import prctl as used"], ids=["plain", "python-prctl"])
def test_the_plain_prctl_gives_up_what_the_packages_does(used):
    done = subprocess.run([sys.executable, "-c", used + GIVE_UP], capture_output=True, text=True, check=True)
    assert done.stdout == "['CapBnd:\\t0000000000000000\\n', 'NoNewPrivs:\\t1\\n']\n"
