"""Reaching a board as the user's own ssh does: keys, records of host keys, configuration; and what refuses or falls silent."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import paramiko
import pytest

from ramp_edge.device.known_hosts import fingerprint, known_keys
from ramp_edge.device.ssh import SshTarget
from ramp_edge.device.target import TargetSpec
from ramp_edge.errors import (
    AuthenticationError,
    BoardToolError,
    ConnectionFailedError,
    DeadlineError,
    HostKeyError,
    RampEdgeError,
    TargetsFileError,
)

pytestmark = pytest.mark.ssh


@pytest.fixture
def client(shared_sshd: Any, tmp_path: Path) -> Path:
    """A ~/.ssh of the test's own, with the key that the server lets in and its host key on record."""
    folder = tmp_path / ".ssh"
    shutil.copytree(shared_sshd.client_home / ".ssh", folder)
    return folder


@pytest.fixture
def reach(dial: Callable[..., SshTarget]) -> Callable[..., str]:
    """Connects as a client with that folder, runs a program, and hangs up."""

    def run(server: Any, client: Path, **options: Any) -> str:
        target = dial(server, ssh_folder=client, **options)
        said = target.run(["printf", "reached"], timeout_s=20).stdout.decode()
        target.close()
        return said

    return run


Reach = Callable[..., str]
Dial = Callable[..., SshTarget]


def test_an_unknown_host_is_refused_with_its_fingerprint(shared_sshd: Any, client: Path, reach: Reach) -> None:
    (client / "known_hosts").unlink()
    with pytest.raises(HostKeyError) as refused:
        reach(shared_sshd, client)
    listed = subprocess.run(
        ["ssh-keygen", "-lf", str(shared_sshd.log.parent / "host_key.pub")], capture_output=True, text=True, check=True
    ).stdout.split()[1]
    assert listed.startswith("SHA256:") and listed in refused.value.message
    assert "--accept-new-host-key" in refused.value.hint
    assert not (client / "known_hosts").exists()


def test_an_accepted_host_key_is_put_on_record(shared_sshd: Any, client: Path, reach: Reach) -> None:
    record = client / "known_hosts"
    record.write_bytes(b"# mine\nother ssh-ed25519 AAAA\nno newline at the end")
    record.chmod(0o640)
    assert reach(shared_sshd, client, accept_new_host_key=True) == "reached"
    lines = record.read_text().splitlines()
    assert lines[:3] == ["# mine", "other ssh-ed25519 AAAA", "no newline at the end"]
    assert lines[3:] == [f"[127.0.0.1]:{shared_sshd.port} {shared_sshd.host_key_line()}"]
    assert stat.S_IMODE(record.stat().st_mode) == 0o640, "the user's own permissions stay"
    assert reach(shared_sshd, client) == "reached"
    listed = subprocess.run(
        ["ssh-keygen", "-F", f"[127.0.0.1]:{shared_sshd.port}", "-f", str(record)], capture_output=True, check=False
    )
    assert listed.returncode == 0, "OpenSSH finds it as well"


def test_a_new_record_is_the_user_s_alone(shared_sshd: Any, client: Path, reach: Reach) -> None:
    shutil.rmtree(client)
    assert not client.exists()
    with pytest.raises(AuthenticationError):
        reach(shared_sshd, client, accept_new_host_key=True)
    assert stat.S_IMODE((client / "known_hosts").stat().st_mode) == 0o600
    assert stat.S_IMODE(client.stat().st_mode) == 0o700


@pytest.mark.parametrize("accept", [False, True])
def test_a_changed_host_key_is_always_fatal(
    shared_sshd: Any, client: Path, loopback: ModuleType, accept: bool, reach: Reach
) -> None:
    loopback.make_key(client / "other")
    kind, base64 = (client / "other.pub").read_text().split()[:2]
    (client / "known_hosts").write_text(f"[127.0.0.1]:{shared_sshd.port} {kind} {base64}\n")
    before = (client / "known_hosts").read_bytes()
    with pytest.raises(HostKeyError, match="CHANGED") as refused:
        reach(shared_sshd, client, accept_new_host_key=accept)
    assert "known_hosts:1" in refused.value.message and f"[127.0.0.1]:{shared_sshd.port}" in refused.value.hint
    assert (client / "known_hosts").read_bytes() == before


def test_a_key_of_another_type_is_a_changed_one(
    shared_sshd: Any, client: Path, loopback: ModuleType, reach: Reach
) -> None:
    loopback.make_key(client / "other", "rsa")
    kind, base64 = (client / "other.pub").read_text().split()[:2]
    (client / "known_hosts").write_text(f"[127.0.0.1]:{shared_sshd.port} {kind} {base64}\n")
    with pytest.raises(HostKeyError, match="CHANGED"):
        reach(shared_sshd, client, accept_new_host_key=True)


def test_a_server_with_several_keys_shows_the_one_on_record(
    new_sshd: Callable[..., Any], loopback: ModuleType, tmp_path: Path, reach: Reach
) -> None:
    loopback.make_key(tmp_path / "rsa_host_key", "rsa")
    server = new_sshd(extra=f"HostKey {tmp_path}/rsa_host_key")
    kind, base64 = (tmp_path / "rsa_host_key.pub").read_text().split()[:2]
    assert kind == "ssh-rsa"
    server.known_hosts.write_text(f"[127.0.0.1]:{server.port} {kind} {base64}\n")
    assert reach(server, server.client_home / ".ssh") == "reached"


def test_every_form_of_record_is_understood(shared_sshd: Any, client: Path, loopback: ModuleType, reach: Reach) -> None:
    record, name, key = client / "known_hosts", f"[127.0.0.1]:{shared_sshd.port}", shared_sshd.host_key_line()
    loopback.make_key(client / "other")
    other = " ".join((client / "other.pub").read_text().split()[:2])
    for text in (
        f"\n# comment\nbroken\n{name} ssh-ed25519 !!!\nx,{name},y\t{key} comment\n",
        f"{name} {other}\n{name} {key}\n",
        f"[127.0.0.*]:{shared_sshd.port} {key}\n",
        f"127.0.0.1 {key}\n",
        f"127.0.0.1 {other}\n{name} {key}\n",
        f"@cert-authority * {other}\n{name} {key}\n",
        f"@revoked {name} {other}\n{name} {key}\n",
        f"caf\xe9 {key}\n{name} {key}\n",
    ):
        record.write_text(text, encoding="latin-1")
        assert reach(shared_sshd, client) == "reached", text
    for text, wanted in (
        (f"!{name},!127.0.0.1,* {key}\n", "is not in"),
        (f"127.0.0.1 {other}\n", "is not in"),
        (f"{name.replace('.', '?')[:-1]} {key}\n", "is not in"),
        (f"@revoked * {key}\n{name} {key}\n", "revokes"),
    ):
        record.write_text(text)
        with pytest.raises(HostKeyError, match=wanted):
            reach(shared_sshd, client)


def test_a_hashed_record_is_understood(shared_sshd: Any, client: Path, reach: Reach) -> None:
    record = client / "known_hosts"
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(record)], check=True, capture_output=True)
    assert record.read_text().startswith("|1|")
    assert reach(shared_sshd, client) == "reached"
    assert not known_keys((record,), "127.0.0.1", shared_sshd.port + 1).keys


def test_the_second_record_file_counts(shared_sshd: Any, client: Path, reach: Reach) -> None:
    (client / "known_hosts").rename(client / "known_hosts2")
    assert reach(shared_sshd, client) == "reached"


def test_a_wrong_key_is_refused_by_name(shared_sshd: Any, client: Path, loopback: ModuleType, reach: Reach) -> None:
    (client / "id_ed25519").unlink()
    loopback.make_key(client / "id_ecdsa", "ecdsa")
    loopback.make_key(client / "wrong")
    (client / "id_rsa").write_text("not a key")
    with pytest.raises(AuthenticationError) as refused:
        reach(shared_sshd, client, identity_file=client / "wrong")
    for name in ("wrong", "id_ecdsa", "id_rsa (unreadable"):
        assert str(client / name) in refused.value.message


def test_a_key_that_is_not_there(shared_sshd: Any, client: Path, reach: Reach) -> None:
    (client / "id_ed25519").unlink()
    with pytest.raises(AuthenticationError, match="no key: there is no agent"):
        reach(shared_sshd, client)
    with pytest.raises(AuthenticationError, match="no such file"):
        reach(shared_sshd, client, identity_file=client / "none")


def test_a_key_with_a_passphrase_needs_the_agent(
    shared_sshd: Any, client: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, reach: Reach
) -> None:
    key = client / "id_ed25519"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(tmp_path / "a")], stdout=subprocess.DEVNULL)
    try:
        while not (tmp_path / "a").exists():
            time.sleep(0.02)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "a"))
        subprocess.run(["ssh-add", "-q", str(key)], check=True, capture_output=True)
        subprocess.run(["ssh-keygen", "-q", "-p", "-N", "a secret", "-f", str(key)], check=True)
        assert reach(shared_sshd, client) == "reached"
        (client / "config").write_text("IdentitiesOnly yes\n")
        with pytest.raises(AuthenticationError, match="no key"):
            reach(shared_sshd, client)
        monkeypatch.delenv("SSH_AUTH_SOCK")
        (client / "config").unlink()
        with pytest.raises(AuthenticationError, match="passphrase: ssh-add it"):
            reach(shared_sshd, client)
    finally:
        agent.terminate()
        agent.wait()


def test_the_configuration_is_honoured(shared_sshd: Any, client: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (client / "id_ed25519").rename(client / "my board's key")
    monkeypatch.setenv("HOME", str(client.parent))
    (client / "config.d").mkdir()
    (client / "config.d" / "boards").write_text(
        f"Host kitchen\n  HostName 127.0.0.1\n  Port {shared_sshd.port}\n  User {shared_sshd.user}\n"
    )
    (client / "config").write_text(
        'Include config.d/*\nHost other\n  Port 1\nHost kitchen\n  IdentityFile "~/.ssh/my board\'s key"\n'
    )
    target = SshTarget(TargetSpec(name="kitchen", host="kitchen"), 20)
    assert target.run(["printf", "x"], timeout_s=20).stdout == b"x"
    target.close()


def test_what_the_target_says_wins_over_the_configuration(shared_sshd: Any, client: Path, reach: Reach) -> None:
    (client / "config").write_text("Host *\n  Port 1\n  User nobody-of-that-name\n  IdentityFile ~/.ssh/none\n")
    assert reach(shared_sshd, client, identity_file=client / "id_ed25519") == "reached"


def test_an_alias_for_the_host_key(shared_sshd: Any, client: Path, reach: Reach) -> None:
    (client / "known_hosts").rename(client / "elsewhere")
    text = (client / "elsewhere").read_text().replace(f"[127.0.0.1]:{shared_sshd.port}", "the-board")
    (client / "elsewhere").write_text(text)
    (client / "config").write_text(f"Host *\n HostKeyAlias the-board\n UserKnownHostsFile {client}/elsewhere\n")
    assert reach(shared_sshd, client) == "reached"


def test_a_proxy_command_carries_the_connection(shared_sshd: Any, client: Path, tmp_path: Path, reach: Reach) -> None:
    proxy = tmp_path / "proxy.py"
    proxy.write_text(
        "import os, select, socket, sys\n"
        "s = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
        "open(sys.argv[3], 'w').write(str(os.getpid()))\n"
        "while True:\n"
        "    for r in select.select([s, 0], [], [])[0]:\n"
        "        d = s.recv(65536) if r is s else os.read(0, 65536)\n"
        "        if not d: sys.exit()\n"
        "        os.write(1, d) if r is s else s.sendall(d)\n"
    )
    (client / "config").write_text(f"ProxyCommand exec {sys.executable} {proxy} %h %p {tmp_path}/pid\n")
    assert reach(shared_sshd, client) == "reached"
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    (client / "config").write_text("ProxyCommand echo 'no way to %h' >&2; exit 1\n")
    with pytest.raises(ConnectionFailedError, match=r"says: no way to 127\.0\.0\.1"):
        reach(shared_sshd, client)


def test_a_jump_goes_through_ssh_itself(
    shared_sshd: Any, client: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reach: Reach
) -> None:
    """OpenSSH's client does not follow HOME, so it is given its files here."""
    wrapper = tmp_path / "bin" / "ssh"
    wrapper.parent.mkdir()
    wrapper.write_text(
        f'#!/bin/sh\necho "$@" >{tmp_path}/said\nexec {shutil.which("ssh")} -F /dev/null '
        f'-oUserKnownHostsFile={client}/known_hosts -i {client}/id_ed25519 "$@"\n'
    )
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
    (client / "config").write_text(f"ProxyJump {shared_sshd.address}\n")
    assert reach(shared_sshd, client) == "reached"
    said = (tmp_path / "said").read_text().split()
    assert said[-2:] == ["--", f"{shared_sshd.user}@127.0.0.1"] and f"127.0.0.1:{shared_sshd.port}" in said


@pytest.mark.parametrize("text", ["Port many\n", 'Host "open\n', "???\n", "Include config\n"], ids=str.strip)
def test_a_configuration_that_makes_no_sense(shared_sshd: Any, client: Path, text: str) -> None:
    (client / "config").write_text(text)
    with pytest.raises(TargetsFileError, match="config"):
        SshTarget(TargetSpec(name="b", host="127.0.0.1"), 5, ssh_folder=client)


@pytest.mark.parametrize(
    "name", ["$(touch pwned)", "a;b", "-oProxyCommand=x", "a b", "a'b", 'a"b', "a\nb", "`x`", "a|b"]
)
def test_names_with_a_shell_s_characters_reach_no_shell(client: Path, name: str, tmp_path: Path) -> None:
    (client / "config").write_text(f"ProxyCommand sh -c 'echo %h %r >{tmp_path}/said'\n")
    for fields in ({"host": name}, {"host": "b", "user": name}):
        with pytest.raises(TargetsFileError, match="cannot be a"):
            SshTarget(TargetSpec(name="b", **fields), 5, ssh_folder=client)
    assert not (tmp_path / "said").exists()


def test_nobody_listens(client: Path, loopback: ModuleType, shared_sshd: Any, reach: Reach) -> None:
    with pytest.raises(ConnectionFailedError, match="cannot be reached: Connection refused"):
        reach(shared_sshd, client, port=loopback.free_port())
    with pytest.raises(ConnectionFailedError, match=r"no-such-host\.invalid"):
        SshTarget(TargetSpec(name="b", host="no-such-host.invalid"), 20, ssh_folder=client)


@contextlib.contextmanager
def talker(greeting: bytes, *, hang_up: bool) -> Iterator[int]:
    """A port that says something to whoever connects, and then nothing."""
    listener = socket.create_server(("127.0.0.1", 0))
    open_ends = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                end, _ = listener.accept()
                end.sendall(greeting)
                if hang_up:
                    end.close()
                else:
                    open_ends.append(end)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)
    for end in open_ends:
        end.close()


@pytest.mark.parametrize("greeting", [b"", b"SSH-2.0-x\r\n", b"SSH-2.0-x\r\n\x00\x00\x01", b"hello\r\n" * 20])
def test_a_server_that_falls_silent_costs_no_more_than_the_deadline(
    shared_sshd: Any, client: Path, greeting: bytes, reach: Reach
) -> None:
    with talker(greeting, hang_up=False) as port:
        started_s = time.monotonic()
        with pytest.raises((DeadlineError, ConnectionFailedError)) as silent:
            reach(shared_sshd, client, port=port, timeout_s=1.5)
        assert time.monotonic() - started_s < 3.5
    if not greeting:
        assert isinstance(silent.value, DeadlineError) and "within" in silent.value.message


@pytest.mark.parametrize(
    "greeting", [b"", b"HTTP/1.0 400 \x1b[31m\xff\r\n\r\n", b"SSH-2.0-x\r\n" + bytes(64), b"x" * 200_000]
)
def test_a_server_that_is_none(
    shared_sshd: Any, client: Path, greeting: bytes, capfd: pytest.CaptureFixture[str], reach: Reach
) -> None:
    with talker(greeting, hang_up=True) as port:
        with pytest.raises((ConnectionFailedError, DeadlineError)) as failed:
            reach(shared_sshd, client, port=port, timeout_s=5)
        assert "\x1b" not in failed.value.message
    assert capfd.readouterr().err == "", "paramiko logs nothing to stderr"


def test_no_thread_is_left_that_holds_the_process_up(shared_sshd: Any, client: Path, reach: Reach) -> None:
    with talker(b"SSH-2.0-x\r\n", hang_up=True) as port, pytest.raises(RampEdgeError):
        reach(shared_sshd, client, port=port, timeout_s=30)
    held = [t for t in threading.enumerate() if not t.daemon and t is not threading.main_thread()]
    assert not held


def test_a_cut_is_noticed_by_whoever_waits(shared_sshd: Any, wire: Callable[..., Any], dial: Dial) -> None:
    line = wire(shared_sshd.port)
    target = dial(shared_sshd, port=line.port)
    target.files.facts("/")
    threading.Timer(0.5, line.cut).start()
    started_s = time.monotonic()
    with pytest.raises(ConnectionFailedError):
        target.run(["sleep", "30"], timeout_s=30)
    assert time.monotonic() - started_s < 10
    for act in (
        lambda: target.run(["true"], timeout_s=5),
        lambda: target.start(["cat"]),
        lambda: target.files.facts("/"),
    ):
        with pytest.raises(ConnectionFailedError):
            act()


def test_a_frozen_server_costs_little_more_than_the_deadline(new_sshd: Callable[..., Any], dial: Dial) -> None:
    server = new_sshd()
    target = dial(server)
    with target.start(["cat"]) as command:
        command.send(b"x\n")
        assert command.read_line(20) == b"x"
        frozen = server.sessions()
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        try:
            started_s = time.monotonic()
            with pytest.raises(DeadlineError):
                command.read_line(0.5)
            with pytest.raises(DeadlineError):
                target.run(["true"], timeout_s=1)
            assert time.monotonic() - started_s < 5
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)


def test_the_ciphers_in_use_are_the_quick_ones(shared_sshd: Any, dial: Dial) -> None:
    assert dial(shared_sshd)._connection.transport.local_cipher == "aes128-gcm@openssh.com"


def test_a_login_shell_that_talks_does_not_disturb(new_sshd: Callable[..., Any], dial: Dial) -> None:
    server = new_sshd()
    (server.home / ".bashrc").write_text("echo welcome; echo welcome >&2; touch ~/was-read\n")
    target = dial(server)
    result = target.run(["sh", "-c", "echo out; echo err >&2"], timeout_s=20)
    target.close()
    assert (server.home / "was-read").exists()
    assert (result.stdout, result.stderr) == (b"out\n", b"err\n")


def test_an_account_that_runs_no_programs(new_sshd: Callable[..., Any], dial: Dial) -> None:
    """It may say why; a board's words are told without what they could do to a terminal."""
    server = new_sshd(extra="ForceCommand printf 'not \\033[31mfor you' >&2; exit 1")
    target = dial(server)
    result = target.run(["true"], timeout_s=20)
    assert (result.exit_code, result.error_text) == (1, "not  [31mfor you")
    with pytest.raises(BoardToolError, match="does not tell its home folder"):
        assert target.files.home
    with pytest.raises(BoardToolError, match="has no SFTP"):
        target.files.facts("/")


def test_sftp_that_ends_before_the_first_word(
    new_sshd: Callable[..., Any], dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A board that refuses SFTP may have closed the channel by the time that the client greets it."""
    greet = paramiko.SFTPClient._send_version

    def greet_late(client: paramiko.SFTPClient) -> int:
        while not client.sock.closed:
            time.sleep(0.02)
        return greet(client)

    monkeypatch.setattr(paramiko.SFTPClient, "_send_version", greet_late)
    target = dial(new_sshd(extra="ForceCommand exit 1"))
    with pytest.raises(BoardToolError, match="has no SFTP"):
        target.files.facts("/")
    assert target.run(["true"], timeout_s=20).exit_code == 1, "the connection stands"


def test_fingerprints_are_those_of_ssh_keygen(shared_sshd: Any, client: Path) -> None:
    import base64

    blob = base64.b64decode(shared_sshd.host_key_line().split()[1])
    listed = subprocess.run(
        ["ssh-keygen", "-lf", str(client / "known_hosts")], capture_output=True, text=True, check=True
    ).stdout
    assert fingerprint(blob) in listed


def test_paramiko_keeps_to_itself(shared_sshd: Any, client: Path, loopback: ModuleType) -> None:
    assert logging.getLogger("paramiko").handlers
