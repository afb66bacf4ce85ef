"""Whether this machine's processor is emulated, where no measure of time means anything: the guest of `make vmtest`."""

import pytest

with open("/proc/cpuinfo", encoding="utf-8") as _cpuinfo:
    EMULATED = "QEMU TCG" in _cpuinfo.read()

PATIENCE = 5 if EMULATED else 1
"""By how much longer a test waits for what must happen."""

on_a_real_machine = pytest.mark.skipif(EMULATED, reason="an emulated processor: no measure means anything on it")
