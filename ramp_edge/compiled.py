"""How every compiled loop is compiled; the only door to numba."""

from __future__ import annotations

import numba

compiled = numba.njit(nogil=True, cache=True, fastmath={"contract"})
"""Sums keep their order: where the compiler may reorder them, code from numba's cache rounds otherwise than code compiled in the
process, and even from call to call, so that a build would not be reproducible."""
