"""Cgroups: what bounds, freezes, counts and kills all of a sandbox at once.

`detect` looks at the machine and answers a `Cgroups`; `create` on it makes the `Group` of one sandbox. Three
arrangements of Linux are known: v2 alone, hybrid (v1 controllers for limits beside a bare v2 tree for freezing and
killing) and v1 alone. They differ in two parts only, which are put together freely: a *core* (who is in it; freeze,
kill, wait: `core.py` for v2, `freezer.py` for v1) and its *limits* (`limits_v2.py`, `limits_v1.py`).
"""

from agentix_kernel.cgroups.contract import CONTROLLERS, Cgroups, Group
from agentix_kernel.cgroups.detect import detect

__all__ = ["CONTROLLERS", "Cgroups", "Group", "detect"]
