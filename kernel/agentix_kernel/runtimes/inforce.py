"""The runtimes and profiles in force: what a spawn gets of them, what is told of them, how they are replaced."""

import difflib
import errno
import os
from collections.abc import Iterable
from typing import Any, TypeVar

import trio
from attrs import evolve

from agentix_kernel.config import ConfigError
from agentix_kernel.confine.zygotes import changed
from agentix_kernel.kernel import Kernel
from agentix_kernel.runtimes.files import Configured, Profile, Settings, configure, load
from agentix_kernel.runtimes.interpreter import own_version
from agentix_kernel.world import DEFAULT_RUNTIME, OWN_RUNTIME, Bind, LaunchError, Readiness, Runtime
from agentix_syscalls import records
from agentix_syscalls.errors import CallError

_T = TypeVar("_T")


def complete(kernel: Kernel, given: dict[str, Any]) -> tuple[dict[str, Any], tuple[Bind, ...]]:
    """The options of a spawn, with those of the profile that it names where it says nothing, and the profile's binds.

    Rules of both hold; of a variable of the environment that both set, the spawn's. The binds' descriptors are the
    caller's. Raises CallError(EINVAL).
    """
    options, binds = given, tuple[Bind, ...]()
    if "profile" in given:
        profile = _named("profile", given["profile"], kernel.settings.profiles)
        options = profile.options | given
        options["env"] = profile.options.get("env", {}) | given.get("env", {})
        options["deny"] = (*profile.options.get("deny", ()), *given.get("deny", ()))
        wanted = (*profile.binds, *(profile.policy_binds if "policy" not in given else ()))
        binds = tuple(evolve(bind, source_fd=os.dup(bind.source_fd)) for bind in wanted)
    runtime = options.get("runtime", DEFAULT_RUNTIME)
    if runtime != DEFAULT_RUNTIME:
        try:
            _named("runtime", runtime, kernel.settings.runtimes)
        except CallError:
            for bind in binds:
                os.close(bind.source_fd)
            raise
    return options, binds


def _named(what: str, name: str, known: dict[str, _T]) -> _T:
    found = known.get(name)
    if found is None:
        near = difflib.get_close_matches(name, known, 1, 0.0)
        remedy = f"the nearest is {near[0]!r}, and agentctl {what}s lists them" if near else f"there are no {what}s yet"
        raise CallError(errno.EINVAL, f"spawn: there is no {what} {name!r}", remedy=f"{remedy}; see agentix-{what}s(5)")
    return found


async def current(kernel: Kernel, name: str) -> Runtime:
    """The runtime of that name as it is now: looked at again when its virtual environment has changed.

    Raises LaunchError at "runtime".
    """
    while name != DEFAULT_RUNTIME:
        settings = kernel.settings
        configured = settings.runtimes.get(name)
        if configured is None:
            raise LaunchError(errno.ESTALE, "runtime", f"{name} is not configured any more")
        marks = changed(configured.runtime)
        if not marks:
            return configured.runtime
        async with kernel.reloading:
            if kernel.settings is settings and settings.runtimes[name] is configured:
                await _renew(kernel, configured, marks)
    return OWN_RUNTIME


async def _renew(kernel: Kernel, configured: Configured, marks: object) -> None:
    """Once for each change: an agent may ask again and again, and it is not on its account."""
    settings, name = kernel.settings, configured.runtime.name
    known, message = settings.faults.get(name, (None, ""))
    if known == marks:
        raise LaunchError(errno.ESTALE, "runtime", message)
    settings.serial += 1
    try:
        settings.runtimes[name] = await trio.to_thread.run_sync(
            configure, kernel.config, name, configured.file, configured.given, settings.serial)
    except ConfigError as error:
        settings.faults[name] = marks, str(error)
        raise LaunchError(errno.ESTALE, "runtime", str(error)) from error
    keep(kernel)


def keep(kernel: Kernel) -> None:
    """Have the zygotes of all runtimes in force ready, and of no others."""
    kernel.world.sandboxes.keep(tuple(configured.runtime for configured in kernel.settings.runtimes.values()))


async def reload(kernel: Kernel, who: str) -> dict[str, list[str]]:
    """Read the files again and make the runtimes ready; then, and only if all went well, put them in force.

    Agents that run are not touched. Recorded either way. Raises CallError(EINVAL).
    """
    async with kernel.reloading:
        new = await _ready(kernel)
        if isinstance(new, str):
            keep(kernel)
            await _record(kernel, kernel.settings, records.FAILED, f"{who}: refused: {new}")
            raise CallError(errno.EINVAL, f"reload: {new}", remedy="nothing has changed; put it right and reload again")
        old, kernel.settings = kernel.settings, new
        old.close()
        keep(kernel)
        await _record(kernel, new, records.ALLOWED, who)
        return {"runtimes": list(new.runtimes), "profiles": list(new.profiles)}


async def _ready(kernel: Kernel) -> Settings | str:
    """What the files say now, with its runtimes ready; or what is wrong with it."""
    try:
        new = await trio.to_thread.run_sync(load, kernel.config, kernel.settings.serial + 1)
    except ConfigError as error:
        return str(error)
    try:
        for configured in new.runtimes.values():
            await kernel.world.sandboxes.prepare(configured.runtime)
    except LaunchError as error:
        new.close()
        return f"{error.stage} {error.message}"
    except BaseException:
        new.close()
        raise
    return new


async def _record(kernel: Kernel, settings: Settings, verdict: int, detail: str) -> None:
    await kernel.settle(kernel.record(records.RELOAD, verdict=verdict,
                                      data=(list(settings.runtimes), list(settings.profiles), detail)))


def runtimes(kernel: Kernel) -> list[dict[str, Any]]:
    """Rows of the runtimes in force, the kernel's own first; of their environments the names only."""
    own = Configured(OWN_RUNTIME, "", {"doc": "agentd's own interpreter"}, None)
    return [_runtime_row(kernel, configured) for configured in (own, *kernel.settings.runtimes.values())]


def _runtime_row(kernel: Kernel, configured: Configured) -> dict[str, Any]:
    runtime, interpreter = configured.runtime, configured.interpreter
    readiness = _readiness(kernel, configured)
    return {
        "name": runtime.name, "version": interpreter.version if interpreter else own_version(),
        "state": readiness.state, "detail": readiness.detail, "pid": readiness.pid,
        "agents": _living(kernel, "runtime", runtime.name),
        "preload": list(runtime.preload), "python": configured.given.get("python"), "venv": runtime.venv,
        "binds": [{"target": target, "source": source} for source, target in runtime.binds],
        "environment": sorted(name for name, _ in runtime.env), "file": configured.file,
        "doc": configured.given.get("doc", ""),
    }


def _readiness(kernel: Kernel, configured: Configured) -> Readiness:
    marks = changed(configured.runtime)
    if not marks:
        return kernel.world.sandboxes.readiness(configured.runtime)
    known, message = kernel.settings.faults.get(configured.runtime.name, (None, ""))
    if known == marks:
        return Readiness("failed", 0, message)
    return Readiness("changed", 0, "its interpreter, packages or folders changed; the next spawn looks at them again")


def profiles(kernel: Kernel) -> list[dict[str, Any]]:
    """Rows of the profiles in force; of their environments the names only."""
    return [_profile_row(kernel, profile) for profile in kernel.settings.profiles.values()]


def _profile_row(kernel: Kernel, profile: Profile) -> dict[str, Any]:
    options = {name: value for name, value in profile.options.items() if name not in {"env", "runtime"}}
    if "policy" in options:
        options["policy"], _ = options["policy"]
    return {
        "name": profile.name, "runtime": profile.options.get("runtime", DEFAULT_RUNTIME), "options": options,
        "agents": _living(kernel, "profile", profile.name),
        "binds": [{"target": bind.target, "source": bind.source} for bind in (*profile.binds, *profile.policy_binds)],
        "environment": sorted(profile.options.get("env", {})), "file": profile.file, "doc": profile.doc,
    }


def _living(kernel: Kernel, what: str, name: str) -> list[int]:
    """The ids of living agents of a runtime or profile."""
    return sorted(process.id for process in kernel.table.alive() if getattr(process.command, what) == name)


def summary(settings: Settings) -> str:
    def listed(names: Iterable[str]) -> str:
        return ", ".join(names) or "none"
    return f"{listed(settings.runtimes)}; profiles: {listed(settings.profiles)}"
