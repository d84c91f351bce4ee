#!/usr/bin/env bash
# Make .venv with everything that a build, the tests and the training script need. Quick when it is already there.
#   PYTHON=python3.12 tools/setup.sh    another interpreter
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
torch_version=2.13.0
stamp=.venv/.ramp-edge-setup

fail() {
    printf 'setup: %s\n' "$1" >&2
    exit 1
}

command -v "$python" >/dev/null || fail "$python is not there: install Python 3.10 to 3.13 or set PYTHON"
"$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' ||
    fail "$("$python" --version) is not supported: Python 3.10 to 3.13 is needed (set PYTHON)"

# What is installed is known by what it was made from.
wanted=$("$python" -c '
import hashlib, pathlib, sys
print(hashlib.sha256(pathlib.Path("pyproject.toml").read_bytes()).hexdigest(), sys.version_info[:2], sys.argv[1])
' "$torch_version")
if [[ -x .venv/bin/python && -f $stamp && $(<"$stamp") == "$wanted" ]]; then
    printf 'setup: .venv is up to date\n'
    exit 0
fi

# llama-cpp-python is a source package: its C++ is compiled here (about 5 minutes on 2 cores).
missing=()
command -v cmake >/dev/null || missing+=(cmake)
command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null || missing+=("a C++ compiler")
if ((${#missing[@]})); then
    fail "$(printf '%s, ' "${missing[@]}" | sed 's/, $//') needed to compile llama-cpp-python; on Debian: apt-get install cmake g++ make (macOS: xcode-select --install; brew install cmake)"
fi

if [[ ! -x .venv/bin/python ]]; then
    "$python" -m venv .venv ||
        fail "$python cannot make a virtual environment; on Debian: apt-get install python3-venv"
fi
rm -f "$stamp"
pip=(.venv/bin/python -m pip install --disable-pip-version-check --quiet)
printf 'setup: torch %s\n' "$torch_version"
# First and alone, so that no later requirement picks another build of it.
"${pip[@]}" "torch==$torch_version"
printf 'setup: ramp-edge and its tools (compiles llama.cpp the first time)\n'
CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$("$python" -c 'import os; print(os.cpu_count() or 1)')} \
    "${pip[@]}" -e '.[dev,hf,train]'
printf '%s\n' "$wanted" >"$stamp"
printf 'setup: done; try .venv/bin/ramp-edge build --device raspberry-pi-5\n'
