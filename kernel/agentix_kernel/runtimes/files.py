"""The files of runtimes and profiles: one TOML file each, one table of keys for each kind.

They are the administrator's word: what they name is opened with root's rights, for every member of the group. So they,
and every folder on the way to them and to what they show, must be root's.
"""

import os
from typing import Any, Final

from attrs import define, evolve, field, frozen

from agentix_kernel.authority.policy.inforce import Source, make
from agentix_kernel.config import Config, ConfigError, Key, check_path, open_file, read_keys, shown
from agentix_kernel.confine import template
from agentix_kernel.confine.zygotes import mark
from agentix_kernel.runtimes.interpreter import Interpreter, look
from agentix_kernel.world import DEFAULT_RUNTIME, Bind, Runtime, identity
from agentix_syscalls import spawn, types
from agentix_syscalls.errors import CallError

RUNTIMES_PAGE: Final = "agentix-runtimes(5)"
PROFILES_PAGE: Final = "agentix-profiles(5)"
_SUFFIX: Final = ".toml"
_SO: Final = "and with it what agents are and see; chown it to root and chmod it"


def _modules(value: Any) -> tuple[str, ...]:
    names = types.texts(value)
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise types.BadArgument(f"{shown(name)} is not the name of a module")
    return names


def _pairs(value: Any) -> tuple[tuple[str, str], ...]:
    """(host path, path inside) of HOST:PATH."""
    pairs: list[tuple[str, str]] = []
    for word in types.texts(value):
        source, _, target = word.rpartition(":")
        if not source:
            raise types.BadArgument(f"{shown(word)} is not HOST:PATH")
        pairs.append((spawn.absolute(source), spawn.absolute(target)))
    return tuple(pairs)


def _policy(value: Any) -> tuple[str, bytes | None]:
    """A shipped name, or the absolute path of a file, whose text is read later."""
    word = types.text(value)
    return (spawn.absolute(word), b"") if word.startswith("/") else spawn.policy(word)


_DOC: Final = Key("doc", "", types.text, "a line about it, for agentctl's listings")
RUNTIME_KEYS: Final = (
    Key("python", None, spawn.absolute, "the interpreter, or the folder of a virtual environment (default: the "
        "interpreter that agentd runs in); Python 3.11 or newer, all of it root's"),
    Key("preload", (), _modules, "modules to import once, before there is an agent; agents share their memory"),
    Key("binds_ro", (), _pairs, "host folders that all of its agents see, read-only, each as HOST:PATH"),
    Key("env", {}, types.environ, "environment variables of its agents; those of the profile and of the spawn go "
        "before them"),
    _DOC,
)
PROFILE_KEYS: Final = (
    *(Key(option.name, None, _policy if option.name == "policy" else option.type, option.doc)
      for option in spawn.OPTIONS if option.profile),
    Key("binds_ro", (), _pairs, "host folders or files to show inside, read-only, each as HOST:PATH; those of the "
        "spawn are added"),
    _DOC,
)
_RUNTIME_KEYS: Final = {key.name: key for key in RUNTIME_KEYS}
_PROFILE_KEYS: Final = {key.name: key for key in PROFILE_KEYS}


@frozen
class Configured:
    """A runtime as its file said: `given` is what stood there. `interpreter`: None for agentd's own."""

    runtime: Runtime
    file: str
    given: dict[str, Any]
    interpreter: Interpreter | None


@frozen
class Profile:
    """Options of a spawn, by their names in spawn.OPTIONS; binds hold descriptors until `Settings.close`."""

    name: str
    file: str
    doc: str
    options: dict[str, Any]
    binds: tuple[Bind, ...]
    policy_binds: tuple[Bind, ...] = ()
    """What its policy shows: not for a spawn that names another policy."""


@define(eq=False)
class Settings:
    """What is in force, by name. `serial` counts what was ever made ready, so that nothing new equals what was."""

    runtimes: dict[str, Configured] = field(factory=dict[str, Configured])
    profiles: dict[str, Profile] = field(factory=dict[str, Profile])
    serial: int = 0
    faults: dict[str, tuple[object, str]] = field(factory=dict[str, tuple[object, str]])
    """Of runtimes that have changed so that they cannot be used: their marks then, and what is wrong."""

    def close(self) -> None:
        for profile in self.profiles.values():
            for bind in (*profile.binds, *profile.policy_binds):
                os.close(bind.source_fd)
        self.profiles.clear()


def load(config: Config, serial: int) -> Settings:
    """Read all of them, and look at all that they name. Runs interpreters; some 100 ms each. Raises ConfigError."""
    settings = Settings(serial=serial)
    try:
        for name, path in _files(config.runtimes_dir):
            given = read_keys(path, _RUNTIME_KEYS, RUNTIMES_PAGE)
            settings.runtimes[name] = configure(config, name, path, given, serial)
        for name, path in _files(config.profiles_dir):
            settings.profiles[name] = _profile(config, name, path)
        _check_references(config, settings)
    except BaseException:
        settings.close()
        raise
    return settings


def _files(folder: str) -> list[tuple[str, str]]:
    """(name, path) of each; none when the folder is not there."""
    check_path(folder, _SO)
    try:
        entries = sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"{folder}: {error.strerror}") from None
    found: list[tuple[str, str]] = []
    for entry in entries:
        if entry.endswith(_SUFFIX):
            path, name = f"{folder}/{entry}", entry.removesuffix(_SUFFIX)
            check_path(path, _SO)
            if not spawn.NAME_RE.match(name) or name == DEFAULT_RUNTIME:
                why = "stands for what holds without a file" if name == DEFAULT_RUNTIME else "is not a name (see spawn)"
                raise ConfigError(f"{path}: {name!r} {why}; rename the file")
            found.append((name, path))
    return found


def configure(config: Config, name: str, path: str, given: dict[str, Any], serial: int) -> Configured:
    """A runtime from what its file says, with all that it names looked at. Raises ConfigError."""
    interpreter = _look(path, given["python"]) if "python" in given else None
    runtime = Runtime(name, preload=given.get("preload", ()), binds=given.get("binds_ro", ()),
                      env=tuple(given.get("env", {}).items()), serial=serial)
    if interpreter is not None:
        runtime = evolve(runtime, executable=interpreter.executable, venv=interpreter.venv,
                         folders=interpreter.folders, marks=interpreter.marks)
    others = (*runtime.folders, *template.python_folders())
    for source, target in runtime.binds:
        _check_source(config, path, source)
        if not os.path.isdir(source):
            raise ConfigError(f"{path}: binds_ro: {source} is not a folder; a single file is for a profile's binds_ro")
        _check_target(path, target, others)
        others = (*others, target)
    sources = tuple((source, mark(source)[:2]) for source, _ in runtime.binds)
    return Configured(evolve(runtime, marks=runtime.marks + sources), path, given, interpreter)


def _look(path: str, python: str) -> Interpreter:
    try:
        return look(python)
    except ConfigError as error:
        raise ConfigError(f"{path}: python: {error}") from None


def _profile(config: Config, name: str, path: str) -> Profile:
    given = read_keys(path, _PROFILE_KEYS, PROFILES_PAGE)
    doc, pairs = given.pop("doc", ""), given.pop("binds_ro", ())
    if "policy" in given:
        given["policy"] = _read_policy(path, given["policy"])
    try:
        policy = make(Source(*given.get("policy", ())), deny=given.get("deny", ()), spawn_max=given.get("spawn_max"))
    except CallError as error:
        raise ConfigError(f"{path}: {error.message}") from None
    shown_by_policy = policy.policy.binds
    if writable := next((bind for bind in shown_by_policy if bind.writable), None):
        raise ConfigError(f"{path}: policy: {writable.mark}: {writable} is writable, and a profile shows nothing that "
                          "is; whoever owns the folder spawns with --policy")
    binds: list[Bind] = []
    try:
        for source, target in (*pairs, *((bind.host, bind.at) for bind in shown_by_policy)):
            _check_source(config, path, source)
            _check_target(path, target, (*template.python_folders(), *(bind.target for bind in binds)))
            fd = os.open(source, os.O_PATH | os.O_CLOEXEC)
            binds.append(Bind(fd, target, writable=False, source=source, identity=identity(fd)))
    except BaseException:
        for bind in binds:
            os.close(bind.source_fd)
        raise
    return Profile(name, path, doc, given, tuple(binds[:len(pairs)]), tuple(binds[len(pairs):]))


def _read_policy(path: str, source: tuple[str, bytes | None]) -> tuple[str, bytes | None]:
    """With the text of its file, which must be root's: it says what agents may."""
    name, text = source
    if text is None:
        return source
    try:
        check_path(name, "and with it what agents may do; chown it to root and chmod it")
        with open_file(name) as file:
            return spawn.policy((name, file.read(spawn.POLICY_MAX_BYTES + 1)))
    except (OSError, types.BadArgument, ConfigError) as error:
        raise ConfigError(f"{path}: policy: {error}") from None


def _check_source(config: Config, path: str, source: str) -> None:
    """It is there, nobody but root can lead us elsewhere by it, and it is not a way into the kernel."""
    real = os.path.realpath(source)
    if not os.path.exists(real):
        raise ConfigError(f"{path}: binds_ro: {source}: no such file or folder on the host")
    try:
        check_path(source, "and so what agents would be shown; choose a folder in one of root's", last=False)
    except ConfigError as error:
        raise ConfigError(f"{path}: binds_ro: {error}") from None
    for own in (config.mount, config.state_dir, config.run_dir, "/proc", "/sys", "/dev"):
        if template.within(real, own) or template.within(own, real):
            raise ConfigError(f"{path}: binds_ro: {source} would show {own}, which is not for agents; choose a folder "
                              "beside it")


def _check_target(path: str, target: str, others: tuple[str, ...]) -> None:
    if os.path.normpath(target) != target or target.startswith("//"):
        raise ConfigError(f"{path}: binds_ro: {target} is not a plain path (as in /data)")
    ours = template.in_the_way(target, others)
    if ours is not None:
        raise ConfigError(f"{path}: binds_ro: {target}: {ours} is there already; choose another path")


def _check_references(config: Config, settings: Settings) -> None:
    known = {DEFAULT_RUNTIME, *settings.runtimes}
    missing = [profile for profile in settings.profiles.values()
               if profile.options.get("runtime", DEFAULT_RUNTIME) not in known]
    if missing:
        name = missing[0].options["runtime"]
        files = ", ".join(profile.file for profile in missing if profile.options["runtime"] == name)
        raise ConfigError(f"{files}: runtime: there is no runtime {name!r}; make {config.runtimes_dir}/{name}{_SUFFIX} "
                          f"or name one of {', '.join(sorted(known))}")
