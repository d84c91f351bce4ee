"""How quick a deploy is beside `scp`, to an SSH server of our own on the loopback address.

    python tools/deploy_speed.py                      # 200 MB, 5 rounds; prints the table of docs/deploy.md
    python tools/deploy_speed.py --size-mb 50 --rounds 3 --json

Every way sends the same file of random bytes, round after round in turn, so that what slows the machine for a while hits all alike.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import paramiko
from loopback_sshd import LoopbackSshd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ramp_edge.device.deploy import deploy
from ramp_edge.device.release import LocalFile
from ramp_edge.device.ssh import SshTarget
from ramp_edge.device.target import TargetSpec
from ramp_edge.events import EventBus

GCM = "aes128-gcm@openssh.com"


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--size-mb", type=int, default=200)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--json", action="store_true", dest="as_json")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        blob = Path(folder) / "blob"
        with blob.open("wb") as stream:
            for _ in range(chosen.size_mb):
                stream.write(os.urandom(1_000_000))
        server = LoopbackSshd(Path(folder) / "sshd")
        server.start()
        try:
            seconds = measure(ways(server, blob), chosen.rounds)
        finally:
            server.stop()
    if chosen.as_json:
        print(json.dumps(seconds, indent=2))
        return
    best = statistics.median(seconds["scp"])
    print(f"{chosen.size_mb} MB, median of {chosen.rounds} rounds (quickest to slowest)\n")
    print("| way | s | MB/s | speed to scp's |\n|---|---:|---:|---:|")
    for way, each in seconds.items():
        middle = statistics.median(each)
        spread = f"{min(each):.2f}-{max(each):.2f}"
        print(f"| {way} | {middle:.2f} ({spread}) | {chosen.size_mb / middle:.0f} | {best / middle:.2f} |")


def measure(work: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Way -> seconds of each round; every second round runs backwards, and the first is not counted."""
    found: dict[str, list[float]] = {way: [] for way in work}
    for number in range(rounds + 1):
        for way, act in work.items() if number % 2 == 0 else reversed(work.items()):
            started_s = time.perf_counter()
            act()
            if number:
                found[way].append(time.perf_counter() - started_s)
    return found


def ways(server: LoopbackSshd, blob: Path) -> dict[str, Callable[[], None]]:
    """What is compared: scp, the whole deploy, the same deploy again, and ways to send by paramiko alone."""
    key, home = server.client_home / ".ssh" / "id_ed25519", server.home
    options = [
        "-q",
        "-o",
        f"UserKnownHostsFile={server.known_hosts}",
        "-i",
        str(key),
        "-P",
        str(server.port),
        "-F",
        "none",
    ]
    address = f"{server.user}@127.0.0.1"

    def scp(*more: str) -> None:
        subprocess.run(["scp", *options, *more, str(blob), f"{address}:{home}/scp"], check=True)

    def whole_deploy(folder: str, *, afresh: bool) -> None:
        if afresh:
            shutil.rmtree(home / folder, ignore_errors=True)
        spec = TargetSpec(name="board", host="127.0.0.1", user=server.user, port=server.port, folder=folder)
        target = SshTarget(spec, 15, ssh_folder=server.client_home / ".ssh")
        try:
            deploy(target, {"model.gguf": LocalFile.of(blob)}, EventBus())
        finally:
            target.close()

    def connect(cipher: str, *, no_delay: bool = True) -> paramiko.Transport:
        channel = socket.create_connection(("127.0.0.1", server.port))
        channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, no_delay)
        transport = paramiko.Transport(channel)
        transport.get_security_options().ciphers = (cipher,)
        transport.start_client(timeout=15)
        transport.auth_publickey(server.user, paramiko.PKey.from_path(key))
        return transport

    def cat(cipher: str, chunk_bytes: int) -> None:
        transport = connect(cipher)
        channel = transport.open_session()
        channel.exec_command(f"cat > '{home}/cat'")
        with blob.open("rb") as source:
            while chunk := source.read(chunk_bytes):
                channel.sendall(chunk)
        channel.shutdown_write()
        if channel.recv_exit_status():
            raise RuntimeError("cat failed")
        transport.close()

    def sftp(cipher: str) -> None:
        transport = connect(cipher)
        client = transport.open_sftp_client()
        assert client is not None
        with blob.open("rb") as source, client.open(f"{home}/sftp", "wb") as sink:
            sink.set_pipelined(True)
            while chunk := source.read(1 << 18):
                sink.write(chunk)
        transport.close()

    return {
        "scp": scp,
        f"scp -c {GCM}": lambda: scp("-c", GCM),
        "deploy, hashes on both sides and sync included": lambda: whole_deploy("a", afresh=True),
        "the same deploy again": lambda: whole_deploy("a", afresh=False),
        "paramiko, cat, aes128-gcm, pieces of 64 KiB": lambda: cat(GCM, 1 << 16),
        "paramiko, cat, aes128-gcm, pieces of 1 MiB": lambda: cat(GCM, 1 << 20),
        "paramiko, cat, aes128-ctr, pieces of 64 KiB": lambda: cat("aes128-ctr", 1 << 16),
        "paramiko, SFTP pipelined, aes128-gcm": lambda: sftp(GCM),
    }


if __name__ == "__main__":
    main()
