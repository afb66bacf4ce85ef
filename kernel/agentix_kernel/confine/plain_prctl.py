"""What privileges.py needs of python-prctl, by ctypes: for a runtime whose interpreter is of another minor version than
agentd's, so that the compiled module is not for it. Each raises OSError.
"""

import ctypes
import os
from typing import Final

_prctl: Final = ctypes.PyDLL(None, use_errno=True).prctl
_prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
_PDEATHSIG, _DUMPABLE, _CAPBSET_READ, _CAPBSET_DROP, _NO_NEW_PRIVS = 1, 4, 23, 24, 38

ALL_CAPS: Final = tuple(range(64))
"""As many as a set has bits; what this Linux does not know, it refuses with EINVAL."""


def _call(option: int, value: int) -> int:
    result: int = _prctl(option, value, 0, 0, 0)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def capbset_read(capability: int) -> bool:
    return bool(_call(_CAPBSET_READ, capability))


def capbset_drop(capability: int) -> None:
    _call(_CAPBSET_DROP, capability)


def set_no_new_privs(value: int) -> None:
    _call(_NO_NEW_PRIVS, value)


def set_pdeathsig(number: int) -> None:
    _call(_PDEATHSIG, number)


def set_dumpable(value: int) -> None:
    _call(_DUMPABLE, value)
