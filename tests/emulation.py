"""Whether this machine's processor is emulated, where no measure of time means anything: the guest of `make vmtest`."""

import pytest

with open("/proc/cpuinfo", encoding="utf-8") as _cpuinfo:
    EMULATED = "QEMU TCG" in _cpuinfo.read()

PATIENCE = 5 if EMULATED else 1
WAIT_S = 60 * PATIENCE
"""How long a test waits for what must happen, and fails then."""

on_a_real_machine = pytest.mark.skipif(EMULATED, reason="an emulated processor: no measure means anything on it")
