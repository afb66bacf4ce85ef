"""What gets installed: the four packages and nothing besides, from where the tests think they come from."""

import ast
import importlib
import json
import os
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"agentix_syscalls": "syscalls", "agentix_vfs": "vfs", "agentix_kernel": "kernel", "agentix": "userspace"}
FROM_WHEEL = "AGENTIX_TEST_WHEEL" in os.environ or os.environ.get("CI") == "true"
SITE = Path(sysconfig.get_path("purelib"))


def _installed() -> metadata.Distribution:
    return metadata.distribution("agentix")


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_come_from_where_they_should(package: str) -> None:
    """./check and CI test the installed wheel; a developer's editable environment, the clone."""
    file = importlib.import_module(package).__file__
    assert file is not None
    home = SITE if FROM_WHEEL else ROOT / PACKAGES[package]
    assert Path(file) == home / package / "__init__.py"


def test_nothing_but_the_four_packages_is_importable() -> None:
    if FROM_WHEEL:
        roots = {file.parts[0] for file in _installed().files or ()}
        assert {root for root in roots if not root.endswith(".dist-info")} == {*PACKAGES, ".."}
    else:
        ours = {name for name, owners in metadata.packages_distributions().items() if "agentix" in owners}
        assert ours <= set(PACKAGES)


def test_the_wheel_holds_every_source_file() -> None:
    def relative(base: Path, package: str) -> dict[str, bytes]:
        return {str(path.relative_to(base)): path.read_bytes() for path in sorted((base / package).rglob("*"))
                if path.is_file() and path.suffix != ".pyc"}

    for package, folder in PACKAGES.items():
        home = SITE if FROM_WHEEL else ROOT / folder
        assert relative(home, package) == relative(ROOT / folder, package)


@pytest.mark.skipif(not FROM_WHEEL, reason="an editable environment has no manual pages")
def test_the_manual_is_installed() -> None:
    pages = {page.relative_to(ROOT / "man") for page in (ROOT / "man").glob("man[1-8]/*.[1-8]")}
    home = Path(sysconfig.get_path("data")) / "share" / "man"
    assert {page.relative_to(home) for page in home.glob("man[1-8]/*.[1-8]")} >= pages > set()


@pytest.mark.skipif(not FROM_WHEEL, reason="an editable environment has no shared files")
@pytest.mark.parametrize("client", ["c", "sh"])
def test_the_clients_of_other_languages_are_installed(client: str) -> None:
    tracked = subprocess.run(["git", "-c", f"safe.directory={ROOT}", "ls-files", "."], check=True, capture_output=True,
                             text=True, cwd=ROOT / "userspace" / client).stdout.split()
    home = Path(sysconfig.get_path("data")) / "share" / "agentix" / client
    assert {file.name: file.read_bytes() for file in home.iterdir()} == {
        name: (ROOT / "userspace" / client / name).read_bytes() for name in tracked}


def test_metadata() -> None:
    about = _installed().metadata
    assert about["Version"] == importlib.import_module("agentix_syscalls").__version__
    assert about["License-Expression"] == "Apache-2.0"
    assert about["License-File"] == "LICENSE"
    assert about["Requires-Python"] == ">=3.11"


def test_commands_load() -> None:
    commands = {point.name: point for point in metadata.entry_points(group="console_scripts")
                if point.dist is not None and point.dist.name == "agentix"}
    assert set(commands) == {"agentctl", "agentd"}
    for command in commands.values():
        assert callable(command.load())
        assert os.access(Path(sys.executable).parent / command.name, os.X_OK)


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


def test_every_import_is_declared_and_every_dependency_imported() -> None:
    """So that a fresh machine has what the code wants, and nothing that it does not."""
    imported = set().union(*(_imports(path) for package, folder in PACKAGES.items()
                             for path in (ROOT / folder / package).rglob("*.py")))
    foreign = imported - set(sys.stdlib_module_names) - set(PACKAGES)
    owners = metadata.packages_distributions()
    needed = {owners[module][0].lower() for module in foreign}
    requirements = (Requirement(text) for text in _installed().requires or ())
    declared = {requirement.name.lower() for requirement in requirements if requirement.marker is None}
    assert needed == declared | {"pytest"}  # agentix.testing is a plugin of pytest's: who imports it has it


def test_an_agent_loads_little() -> None:
    """agentix.libc is what every agent imports; the kernel's and the shell's libraries must not come with it."""
    program = "import sys, json, agentix.libc; json.dump(sorted(sys.modules), sys.stdout)"
    ran = subprocess.run([sys.executable, "-I", "-c", program], check=True, capture_output=True, cwd="/")
    loaded = {name.split(".")[0] for name in json.loads(ran.stdout)}
    assert loaded.isdisjoint({"trio", "click", "pyfuse3", "pyseccomp", "prctl", "agentix_kernel", "agentix_vfs"})
