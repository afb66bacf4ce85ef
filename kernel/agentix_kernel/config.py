"""Configuration: one table of keys, read from TOML. Unknown keys are refused with the nearest known name."""

import difflib
import os
import stat
import tomllib
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, Final

from attrs import field, frozen

from agentix_syscalls import types

SYSTEM_FOLDER: Final = "/etc/agentix"
SYSTEM_CONFIG: Final = f"{SYSTEM_FOLDER}/agentd.toml"
SOCKET_PATH_MAX_BYTES: Final = 107
"""sockaddr_un's path, less its NUL (unix(7))."""
LINKS_MAX: Final = 40
"""On the way to one path, as Linux has it (path_resolution(7))."""
SHOWN_MAX: Final = 80
"""Characters of a value in a complaint about it."""


class ConfigError(Exception):
    """The configuration cannot be used; the message names the file, the key and the remedy."""


@frozen
class Key:
    """One row: `check` gets the TOML value and returns the value to use or raises ValueError with a sentence."""

    name: str
    default: Any
    check: Callable[[Any], Any]
    doc: str


def _whole(low: int, high: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"wants a whole number from {low} to {high}")
        return value
    return check


def _number(low: float, high: float) -> Callable[[Any], float]:
    def check(value: Any) -> float:
        if type(value) not in {int, float} or not low <= value <= high:
            raise ValueError(f"wants a number from {low} to {high}")
        return float(value)
    return check


def _text(value: Any) -> str:
    if type(value) is not str or "\0" in value:
        raise ValueError("wants text")
    return value


def _path(value: Any) -> str:
    if type(value) is not str or not value.startswith("/") or "\0" in value:
        raise ValueError("wants an absolute path")
    return value.rstrip("/") or "/"


def _path_or_none(value: Any) -> str:
    try:
        return "" if value == "" else _path(value)
    except ValueError:
        raise ValueError("wants an absolute path, or nothing") from None


def _program(value: Any) -> tuple[str, ...]:
    argv = _texts(value)
    if argv and not argv[0].startswith("/"):
        raise ValueError("wants a list of texts, the first the absolute path of a program")
    return argv


def _texts(value: Any) -> tuple[str, ...]:
    if types.kind(value) != "an array":
        raise ValueError("wants a list of texts")
    return tuple(map(_text, value))


def _switch(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError("wants true or false")
    return value


def _one_of(*words: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in words:
            raise ValueError(f"wants one of {', '.join(words)}")
        return str(value)
    return check


MIB: Final = 1 << 20
UID_SPAN: Final = 65536
"""Uids of one kernel: agents and tools alive or with files at the same time."""

KEYS: Final = (
    Key("mount", "/agent", _path, "where the agents' trees are mounted"),
    Key("state_dir", "/var/lib/agentix", _path, "what outlives the kernel: journal, durable folders, logs"),
    Key("run_dir", "/run/agentix", _path, "sockets and the lock; gone with a reboot"),
    Key("group", "agentix", _text, "group that may use the control socket; root alone when it does not exist"),
    Key("accept_missing", (), _texts, "layers of confinement that may be missing on this machine, by name; "
        "every ps, doctor and record shows them"),
    Key("agents_max", 2000, _whole(1, UID_SPAN // 2), "agents alive at most"),
    Key("uid_first", 0, _whole(0, 4_000_000_000), "first uid of the agents; 0 claims a free range of "
        f"{UID_SPAN} and keeps it"),
    Key("memory_bytes", 512 * MIB, _whole(16 * MIB, 1 << 50), "memory of an agent that was given no limit"),
    Key("cpus", 1.0, _number(0.01, 4096), "processors of an agent that was given no limit"),
    Key("pids", 64, _whole(3, 4_000_000), "processes of an agent that was given no limit"),
    Key("working_bytes", 64 * MIB, _whole(0, 1 << 50), "quota of mem/working of an agent"),
    Key("working_files", 4096, _whole(1, 100_000_000), "quota of files in mem/working of an agent"),
    Key("durable_bytes", 1 << 30, _whole(0, 1 << 60), "quota of state and mem/episodic of an agent, together"),
    Key("durable_files", 1 << 17, _whole(1, 100_000_000), "quota of files in state and mem/episodic of an agent"),
    Key("log_bytes", 8 * MIB, _whole(65536, 1 << 40), "size at which an agent's output log is rotated; two are kept"),
    Key("handles_max", 1024, _whole(8, 1_000_000), "open handles of an agent"),
    Key("connections_max", 64, _whole(1, 4096), "connections of an agent"),
    Key("stop_timeout_s", 10.0, _number(0, 3600), "from SIGTERM to the proven kill, for an agent without a handler"),
    Key("sigstop_grace_s", 5.0, _number(0, 60), "how long a mask may defer SIGSTOP"),
    Key("restart_delay_s", 0.1, _number(0.01, 3600), "from the end of an agent to its first restart; doubled for each "
        "further one"),
    Key("restart_delay_max_s", 60.0, _number(0.01, 86400), "longest time from an end to a restart"),
    Key("restart_reset_s", 10.0, _number(0, 86400), "an agent that ran so long before it ended is restarted after "
        "restart_delay_s again"),
    Key("start_limit_burst", 5, _whole(0, 1_000_000), "an agent is restarted no more after so many starts in "
        "start_limit_interval_s; 0: no such limit"),
    Key("start_limit_interval_s", 10.0, _number(0, 86400), "see start_limit_burst"),
    Key("shutdown_timeout_s", 10.0, _number(0, 3600), "what agents have to end when the kernel shuts down"),
    Key("tool_timeout_s", 60.0, _number(0.1, 86400), "limit of a tool that was given none"),
    Key("tool_output_bytes", MIB // 2, _whole(1024, 512 * 1024), "what is kept of a tool's stdout, and of its stderr"),
    Key("tools_max", 16, _whole(1, 1000), "tools at once of one agent"),
    Key("loop_calls", 10_000, _whole(0, 1_000_000_000), "an agent whose policy says nothing of loops gets SIGLOOP "
        "when it makes the same call so often in loop_window_s, answered alike each time; 0: never"),
    Key("loop_window_s", 10.0, _number(0.001, 86400), "see loop_calls"),
    Key("journal_segment_bytes", 8 * MIB, _whole(MIB, 1 << 30), "size of a segment of the journal"),
    Key("journal_keep_days", 30.0, _number(0, 100_000), "how long closed segments of the journal are kept; "
        "0: for ever"),
    Key("journal_keep_bytes", 4 << 30, _whole(0, 1 << 60), "size of the journal over which its oldest closed "
        "segments are dropped; 0: no limit"),
    Key("disk_full", "refuse", _one_of("refuse", "stop"), "what becomes of agents while the disk takes no records: new "
        "work is refused, or they are stopped as well until it takes them again"),
    Key("anchor_file", "", _path_or_none, "file in which the head of the journal is anchored; nothing stands for "
        "journal.anchors in state_dir"),
    Key("anchor_syslog", "", _path_or_none, "socket of a system logger that gets anchors, such as /dev/log"),
    Key("anchor_command", (), _program, "program, with arguments, that gets each anchor as a line on its stdin"),
    Key("anchor_interval_s", 0.5, _number(0.01, 86400), "how often the head is anchored while something is recorded"),
    Key("cgroup", "auto", _one_of("auto", "v2", "hybrid", "v1"), "hierarchy of cgroups to use"),
    Key("stall_s", 10.0, _number(0, 3600), "how long the kernel's loop may stand still before all that it does is "
        "written down; 0: not looked at"),
    Key("fault_injection", False, _switch, "for tests alone: AGENTIX_FAULT=POINT:N ends agentd at a fault point"),
)

BY_NAME: Final = {key.name: key for key in KEYS}


@frozen
class Config:
    """The values in force. `prefix` is None for the system's kernel."""

    prefix: str | None
    source: str
    values: dict[str, Any] = field(repr=False)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.values[name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def control_socket(self) -> str:
        return f"{self.run_dir}/control.sock"

    @property
    def sockets_dir(self) -> str:
        """Holds `<id>.<life>/kernel.sock` of each agent."""
        return f"{self.run_dir}/agents"

    @property
    def journal_dir(self) -> str:
        return f"{self.state_dir}/journal"

    @property
    def key_path(self) -> str:
        return f"{self.state_dir}/keys/journal.key"

    @property
    def index_dir(self) -> str:
        return f"{self.state_dir}/index"

    @property
    def anchors_path(self) -> str:
        return str(self.anchor_file) or f"{self.state_dir}/journal.anchors"

    @property
    def agents_dir(self) -> str:
        return f"{self.state_dir}/agents"

    @property
    def runtimes_dir(self) -> str:
        return f"{self.prefix or SYSTEM_FOLDER}/runtimes"

    @property
    def profiles_dir(self) -> str:
        return f"{self.prefix or SYSTEM_FOLDER}/profiles"


def load(prefix: str | None = None, path: str | None = None) -> Config:
    """Read the configuration of a kernel: `path`, or DIR/agentd.toml, or /etc/agentix/agentd.toml if it is there.

    Raises ConfigError.
    """
    defaults = {key.name: key.default for key in KEYS}
    if prefix is not None:
        prefix = os.path.abspath(prefix)
        defaults |= {"mount": f"{prefix}/agent", "state_dir": f"{prefix}/state", "run_dir": f"{prefix}/run"}
    source = path or (f"{prefix}/agentd.toml" if prefix else SYSTEM_CONFIG)
    given = _read(source) if path is not None or os.path.lexists(source) else {}
    config = Config(prefix, source, defaults | given)
    if len(os.fsencode(config.control_socket)) > SOCKET_PATH_MAX_BYTES:
        raise ConfigError(f"{config.control_socket}: over {SOCKET_PATH_MAX_BYTES} bytes, which is where paths of Unix "
                          "sockets end; choose a shorter prefix or run_dir")
    return config


def check_folders(config: Config) -> None:
    """Nobody but root, or the person who called sudo, may change what this kernel writes through or reads its
    configuration from: a link planted there would lead root anywhere. Raises ConfigError.
    """
    for path in (os.path.abspath(config.source), config.run_dir, config.state_dir, config.mount, config.anchors_path,
                 *config.anchor_command[:1]):
        check_path(path, "and with it where this kernel writes; choose a folder of root's, or chown and chmod it")


def check_path(path: str, so: str, *, last: bool = True) -> None:
    """Nobody but root, or the person who called sudo, may change the path or lead it elsewhere; without `last`, what is
    at its end may be anybody's. `so`: why that counts, and the remedy. What is not there is not looked at.

    Raises ConfigError.
    """
    steps = _steps(path)
    for folder in steps if last else steps[:-1]:
        try:
            fault = open_to_others(os.lstat(folder))
        except OSError:  # not there: made by us, in a folder that was looked at; a dead mount is the boot's to sweep
            continue
        if fault:
            raise ConfigError(f"{path}: others than root may change {folder} ({fault}), {so}")


def _steps(path: str) -> list[str]:
    """Every folder and link that Linux passes on the way to the path, and the path itself."""
    steps, links, todo = ["/"], 0, path.split("/")[::-1]
    at = "/"
    while todo and links <= LINKS_MAX:
        part = todo.pop()
        at = os.path.dirname(at) if part == ".." else os.path.join(at, part) if part not in {"", "."} else at
        steps.append(at)
        if part not in {"", ".", ".."} and os.path.islink(at):
            links += 1
            target = os.readlink(at)
            todo += target.split("/")[::-1]
            at = "/" if target.startswith("/") else os.path.dirname(at)
    return list(dict.fromkeys(steps))


def open_to_others(info: os.stat_result) -> str:
    """Whose it is when others than root, or the person who called sudo, may change it; "" when they may not."""
    trusted = info.st_uid in {0, int(os.environ.get("SUDO_UID", "0"))}
    open_to_all = info.st_mode & 0o022 and not info.st_mode & stat.S_ISVTX and not stat.S_ISLNK(info.st_mode)
    return f"uid {info.st_uid}, mode {stat.S_IMODE(info.st_mode):o}" if open_to_all or not trusted else ""


def _read(source: str) -> dict[str, Any]:
    return read_keys(source, BY_NAME, "agentd.toml(5)")


def open_file(path: str) -> BinaryIO:
    """Open a file of settings. Raises OSError, and ConfigError for what is none: a FIFO would hold up who reads it."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ConfigError(f"{path}: not a regular file")
    return os.fdopen(fd, "rb")


def read_keys(source: str, keys: Mapping[str, Key], page: str) -> dict[str, Any]:
    """The checked values of a TOML file of plain keys; `page` explains them. Raises ConfigError."""
    try:
        with open_file(source) as file:
            given = tomllib.load(file)
    except FileNotFoundError:
        raise ConfigError(f"{source}: no such file") from None
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source}: {error}") from None
    return {name: _value(source, name, value, keys, page) for name, value in given.items()}


def _value(source: str, name: str, value: Any, keys: Mapping[str, Key], page: str) -> Any:
    key = keys.get(name)
    if key is None:
        near = difflib.get_close_matches(name[:SHOWN_MAX], keys, 1)
        hint = f"; the nearest known one is {near[0]!r}" if near else ""
        raise ConfigError(f"{source}: unknown key {shown(name)}{hint} (see {page})")
    try:
        return key.check(value)
    except ValueError as error:
        got = "" if isinstance(error, types.BadArgument) else f", got {shown(value)}"
        raise ConfigError(f"{source}: {name}: {error}{got}") from None


def shown(value: Any) -> str:
    """As Python writes it, but not without end."""
    text = repr(value)
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}..."
