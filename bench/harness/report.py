"""What a benchmark says: figures with units in their names, goals that are met or not, a table or one JSON object."""

import json
import os
import platform
import sys
from collections.abc import Sequence
from typing import Any, Final

from attrs import define, field, frozen

from harness.figures import median, p99

_DIGITS: Final = 4


@frozen
class Goal:
    """`value` `op` `goal`, where op is "<=" or ">="; a ratio to a peer of the same run wherever there is one."""

    name: str
    value: float
    op: str
    goal: float

    @property
    def met(self) -> bool:
        return self.value <= self.goal if self.op == "<=" else self.value >= self.goal

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "value": _short(self.value), "op": self.op, "goal": _short(self.goal),
                "met": self.met}


@define
class Report:
    name: str
    figures: dict[str, Any] = field(factory=dict[str, Any])
    goals: list[Goal] = field(factory=list[Goal])
    tables: list[tuple[str, list[list[str]]]] = field(factory=list[tuple[str, list[list[str]]]])
    """Title and rows; the first row is the heading."""
    notes: list[str] = field(factory=list[str])

    def add_samples(self, name: str, samples: Sequence[float], unit: str) -> None:
        """The figures of one series: <name>_median_<unit>, _p99_, _max_."""
        self.figures |= {f"{name}_median_{unit}": median(samples), f"{name}_p99_{unit}": p99(samples),
                         f"{name}_max_{unit}": max(samples)}

    def to_json(self) -> str:
        figures = {name: _short(value) for name, value in self.figures.items()}
        return json.dumps({"name": self.name, "machine": machine(), "figures": figures,
                           "goals": [goal.to_json() for goal in self.goals]})

    def to_text(self) -> str:
        facts = machine()
        host = f"{facts['cpus']} x {facts['cpu']}, Linux {facts['linux']}, Python {facts['python']}"
        lines = [f"{self.name}: {host}, load {facts['load_1min']}"]
        for title, rows in self.tables:
            lines += ["", title, *table(rows)]
        goals = [["goal", "value", "", "wanted", ""]]
        goals += [[goal.name, number(goal.value), goal.op, number(goal.goal), "met" if goal.met else "NOT MET"]
                  for goal in self.goals]
        return "\n".join([*lines, "", *table(goals), *([""] if self.notes else []), *self.notes])


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with aligned columns: the first to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) if at == 0 else cell.rjust(width)
                       for at, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip() for row in rows]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def number(value: float) -> str:
    """For people: four significant digits, thousands apart."""
    rounded = _short(value)
    return f"{rounded:,.0f}" if abs(rounded) >= 1000 else f"{rounded:g}"


def machine() -> dict[str, Any]:
    return {"cpus": os.cpu_count(), "cpu": _cpu(), "linux": platform.release(), "python": platform.python_version(),
            "interpreter": sys.executable, "load_1min": round(os.getloadavg()[0], 2)}


def _cpu() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _short(value: Any) -> Any:
    """Four significant digits: more would be noise. Whole numbers stay whole."""
    return float(f"{value:.{_DIGITS}g}") if type(value) is float else value
