"""Restart policies: whether an agent that ended is run again, and when. Decisions only; `rebirth` carries them out.

What systemd's users expect of Restart=, RestartSec=, RestartMaxDelaySec= and StartLimitBurst= (systemd.service(5),
systemd.unit(5)), with the back-off of Docker's restart manager: doubled each time, begun anew after a life long enough.
"""

from typing import Final

from agentix_kernel.config import Config
from agentix_kernel.process import End, Lives, Process, Why
from agentix_syscalls.spawn import Restart

FINAL: Final = frozenset({Why.POLICY, Why.TRUST, Why.BUDGET, Why.UNKILLABLE, Why.SHUTDOWN})
"""No policy restarts an agent after these: what it did was forbidden, costs too much, or is not over."""
CLEAN_SIGNALS: Final = frozenset({"SIGHUP", "SIGINT", "SIGTERM", "SIGPIPE"})
"""Linux signals that end a program in order, as systemd has it."""


def failed(end: End) -> bool:
    """Whether `on-failure` names this end: all but exit 0 and the signals that ask for an end."""
    if end.why is Why.EXIT:
        return end.code != 0
    return end.why is not Why.SIGNAL or end.signal not in CLEAN_SIGNALS


def delay(config: Config, process: Process, end: End, now_ns: int) -> float | None:
    """Seconds until the policy restarts an agent whose life has just ended so; None: it stays dead.

    Counts a restart. Says in `refused` why there is none although the policy names this end.
    """
    lives = process.lives
    if not lives.wanted or end.why in FINAL or not _names(lives, end):
        return None
    if lives.policy.most is not None and lives.restarts >= lives.policy.most:
        lives.refused = f"restarted {_times(lives.restarts)}, the most its policy allows"
        return None
    ran_s = (now_ns - process.born_ns) / 1e9
    doubled = 0.0 if ran_s >= config.restart_reset_s else lives.delay_s * 2
    delay_s: float = min(max(doubled, config.restart_delay_s), config.restart_delay_max_s)
    if _too_often(config, lives, now_ns + round(delay_s * 1e9)):
        lives.refused = f"started {_times(config.start_limit_burst)} in {config.start_limit_interval_s:g} s"
        return None
    lives.delay_s = delay_s
    lives.restarts += 1
    return delay_s


def outlasts(lives: Lives, end: End) -> bool:
    """Whether the next boot runs an agent again that ended so just before its kernel did."""
    return lives.wanted and (end.why is Why.SHUTDOWN or (end.why not in FINAL and _names(lives, end)))


def wants(policy: Restart) -> bool:
    return policy.policy != "never"


def begun(config: Config, lives: Lives, now_ns: int) -> None:
    """A life begins: what the start limit counts."""
    horizon = now_ns - round(config.start_limit_interval_s * 1e9)
    lives.starts_ns[:] = [*(at for at in lives.starts_ns if at > horizon), now_ns]


def renew(lives: Lives) -> None:
    """An operator wants it to run: what went before does not count any more."""
    lives.restarts, lives.delay_s, lives.refused = 0, 0.0, ""
    lives.starts_ns.clear()
    lives.wanted = wants(lives.policy)


def told(process: Process, now_ns: int) -> str:
    """What people read beside how an agent ended: when it is restarted, or why it is not; else nothing."""
    lives = process.lives
    if process.waking is not None:
        return f"restarts in {max(lives.due_ns - now_ns, 0) / 1e9:.1f} s (life {process.life})"
    return f"not restarted: {lives.refused}" if lives.refused and not process.alive else ""


def _names(lives: Lives, end: End) -> bool:
    return lives.policy.policy == "always" or failed(end)


def _too_often(config: Config, lives: Lives, start_ns: int) -> bool:
    horizon = start_ns - round(config.start_limit_interval_s * 1e9)
    burst: int = config.start_limit_burst
    return burst > 0 and sum(at > horizon for at in lives.starts_ns) >= burst


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
