"""The same rows become the same bytes: compiled in the process or from numba's cache, whatever lies in fresh memory, in any thread."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import hashlib
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from ramp_edge.codec.types import QuantType
from ramp_edge.quantize.feedback import quantize_rows
from ramp_edge.quantize.hessian import feedback_factor

rng = np.random.default_rng(0)
inputs = rng.standard_normal((700, 512)).astype(np.float32) * np.exp(rng.standard_normal(512)).astype(np.float32)
factor = feedback_factor(inputs.T @ inputs / 700)
rows = rng.standard_normal((48, 512)).astype(np.float32)
digest = hashlib.sha256()

def one(number):
    # Every call finds memory as others have left it.
    junk = [np.full(7 * (number + 3) * k, np.nan, np.float32) for k in range(1, 9)]
    del junk[number % 8 :]
    return [quantize_rows(t, rows, factor)[0].tobytes() for t in TYPES]

TYPES = [QuantType[name] for name in "Q8_0 Q5_1 IQ4_NL Q4_K Q6_K IQ4_XS".split()]
with ThreadPoolExecutor(2) as pool:
    results = list(pool.map(one, range(16)))
assert all(result == results[0] for result in results), "calls differ"
print(hashlib.sha256(b"".join(results[0])).hexdigest())
"""


def quantized(cache: Path, perturb: str) -> str:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "MALLOC_PERTURB_": perturb, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_fresh_code_and_cached_code_give_the_same_bytes(tmp_path: Path) -> None:
    fresh = quantized(tmp_path, "0")
    assert list(tmp_path.rglob("*.nbc")), "the second run takes its code from here"
    assert {quantized(tmp_path, perturb) for perturb in ("0", "85", "170")} == {fresh}
