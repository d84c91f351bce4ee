"""The command as a process of its own against a real SSH server: one exit code a cause, and Ctrl-C leaves nothing locked."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import ramp_edge

pytestmark = pytest.mark.ssh
SCRIPT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
sys.argv[0] = "ramp-edge"
from ramp_edge.cli.main import main
main()
"""


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    model = os.urandom(3_000_000)
    (folder / "model.gguf").write_bytes(model)
    record = {"schema_version": 1, "file_name": "model.gguf", "file_sha256": hashlib.sha256(model).hexdigest()}
    (folder / "build.json").write_text(json.dumps(record))
    return folder


def start(server: Any, *args: str | Path, **variables: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "HOME": str(server.client_home),
        "PYTHONPATH": str(Path(ramp_edge.__file__).parents[1]),
    }
    environment.pop("RAMP_EDGE_CONFIG", None)
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**environment, "XDG_CONFIG_HOME": str(server.client_home), **variables},
    )  # fmt: skip


def run(server: Any, *args: str | Path) -> tuple[int, str, str]:
    process = start(server, *args)
    stdout, stderr = process.communicate(timeout=60)
    return process.returncode, stdout, stderr


def test_a_board_from_first_contact_on(
    new_sshd: Callable[..., Any], out: Path, loopback: ModuleType, tmp_path: Path
) -> None:
    server = new_sshd()
    server.known_hosts.unlink()
    there = ("--target", server.address)
    code, _, told = run(server, "deploy", out, "--runtime", "none", *there)
    assert code == 20 and "SHA256:" in told and "--accept-new-host-key" in told and "Traceback" not in told
    assert not server.known_hosts.exists()
    code, table, told = run(server, "deploy", out, "--runtime", "none", *there, "--accept-new-host-key")
    assert code == 0 and "deployed" in table, told
    assert "send ..." in told, "progress is on stderr"
    code, table, _ = run(server, "deploy", out, "--runtime", "none", *there, "--json")
    (record,) = json.loads(table)["targets"]
    assert code == 0 and (record["result"], record["sent_bytes"]) == ("already there", 0)
    assert record["seconds"] < 2
    assert (Path(record["folder"]) / "model.gguf").read_bytes() == (out / "model.gguf").read_bytes()
    assert Path(record["folder"]).is_relative_to(server.home / "ramp-edge")

    (server.client_home / ".ssh" / "id_ed25519").rename(tmp_path / "key")
    code, _, told = run(server, "deploy", out, "--runtime", "none", *there)
    assert code == 21 and "lets nobody in" in told
    (tmp_path / "key").rename(server.client_home / ".ssh" / "id_ed25519")
    server.stop()
    code, _, told = run(server, "deploy", out, "--runtime", "none", *there)
    assert code == 19 and "Connection refused" in told
    server.new_host_key()
    server.start()
    code, _, told = run(server, "deploy", out, "--runtime", "none", *there, "--accept-new-host-key")
    assert code == 20 and "CHANGED" in told
    server.trust()
    assert run(server, "deploy", *there, "--verify")[0] == 0
    assert run(server, "targets", "check", server.address)[0] == 0


def test_an_interrupted_deploy_leaves_nothing_locked(new_sshd: Callable[..., Any], out: Path) -> None:
    server = new_sshd()
    with (out / "model.gguf").open("wb") as model:
        model.truncate(150_000_000)
    digest = hashlib.sha256(bytes(1_000_000) * 150).hexdigest()
    (out / "build.json").write_text(json.dumps({"schema_version": 1, "file_name": "model.gguf", "file_sha256": digest}))
    process = start(server, "deploy", out, "--runtime", "none", "--target", server.address)
    assert process.stderr is not None
    while not (line := process.stderr.readline()).startswith("send"):
        assert line
    part = server.home / "ramp-edge" / "uploads" / f"{digest}.part"
    while not part.exists() or part.stat().st_size < 5_000_000:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=20)
    assert process.returncode == 130
    assert told.splitlines()[-1] == "ramp-edge: interrupted; the same command goes on where it was"
    assert "Traceback" not in told
    code, table, told = run(server, "deploy", out, "--runtime", "none", "--target", server.address, "--json")
    assert code == 0, told
    assert json.loads(table)["targets"][0]["sent_bytes"] < 146_000_000, "it went on"


def test_boards_in_parallel_one_of_them_away(
    new_sshd: Callable[..., Any], loopback: ModuleType, out: Path, tmp_path: Path
) -> None:
    server = new_sshd()
    boards = tmp_path / "boards.yaml"
    boards.write_text(
        "targets:\n"
        + "".join(f"  b{n}:\n    host: {server.address}\n    folder: fleet/{n}\n    tags: [many]\n" for n in range(4))
        + f"  away:\n    host: x@127.0.0.1:{loopback.free_port()}\n    tags: [many]\n"
    )
    code, table, told = run(server, "deploy", out, "--runtime", "none", "--target", "many", "--targets-file", boards)
    assert code == 19 and "1 of 5 boards failed" in told
    assert table.count("deployed") == 4 and table.count("failed") == 1
    assert sorted(p.name for p in (server.home / "fleet").iterdir()) == ["0", "1", "2", "3"]
