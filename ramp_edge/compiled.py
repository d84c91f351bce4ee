"""How every compiled loop is compiled, and where its machine code is kept; the only door to numba."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numba
import numpy as np
from numba.core.dispatcher import Dispatcher

OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": {"contract"}}
"""Sums keep their order: where the compiler may reorder them, code from numba's cache rounds otherwise than code compiled in the
process, and even from call to call, so that a build would not be reproducible."""
_keys: dict[int, str] = {}
"""Of the loops compiled so far, by the dispatcher's id; they live as long as their modules."""


def compiled(loop: Callable[..., Any]) -> Any:
    """Compile a loop; the machine code is kept for the next process.

    numba keeps it as long as the loop's own file is as it was. But it also depends on the options above and on loops and constants of other
    files, so the folder that it lies in is named after them.
    """
    key, settings = _key(loop), cast(Any, numba.config)
    given = settings.CACHE_DIR
    home = Path(given) if given else Path(loop.__code__.co_filename).parent / "__pycache__"
    # Where this folder cannot be written, numba takes the user's own.
    settings.CACHE_DIR = str(home / f"compiled-{key}")
    try:
        made = numba.njit(cache=True, **OPTIONS)(loop)
    finally:
        settings.CACHE_DIR = given
    _keys[id(made)] = key
    return made


def _key(loop: Callable[..., Any]) -> str:
    """Of the options and of everything that the loop takes from its module's names."""
    digest = hashlib.sha256(repr(sorted(OPTIONS.items())).encode())
    for name in loop.__code__.co_names:
        value = loop.__globals__.get(name)
        if isinstance(value, Dispatcher):
            source = Path(value.py_func.__code__.co_filename).read_bytes()
            digest.update(f"{name} {_keys.get(id(value))} {hashlib.sha256(source).hexdigest()}".encode())
        elif isinstance(value, (int, float, np.generic, np.ndarray)):
            array = np.asarray(value)
            digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()[:12]
