"""Every command in README.md and docs/ is run here, in a copy of a scratch folder, with the output that a page shows for an error.

What is changed on the way: an address of the documentation's network (192.0.2.0/24) becomes the loopback server's; builds take
`--effort fast` and a context that the tiny model knows, benches and probes few repeats, and both this machine's own programs, since
the loopback board is this machine. A file that a command makes is not there before.
What cannot run at all is in NOT_RUN with its reason, and its options are parsed.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from ramp_edge.cli.main import app

from .conftest import ROOT, Outcome, World

pytestmark = [pytest.mark.slow, pytest.mark.ssh, pytest.mark.hf]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = ("ramp-edge", ".venv/bin/ramp-edge")
NOT_RUN = {
    "bash tools/setup.sh": "compiles llama.cpp for minutes; .ci/run begins with it, and these tests run in what it made",
    ".venv/bin/python -m pytest -q": "is this very run",
    "ramp-edge runtime build --host": "compiles for minutes; .ci/run does, and `llama_bin` is what it made",
    "ramp-edge runtime build --for raspberry-pi-5": "compiles for minutes; .ci/run does, and tests marked `arm` run what it made",
}
"""Command -> why it is not run here."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A line of a page."""

    page: str
    text: str
    """As written, without prompt and comment."""
    output: tuple[str, ...]
    """What the page shows for it."""

    @property
    def words(self) -> list[str]:
        """Program and arguments, without a redirection."""
        words = shlex.split(self.text)
        return words[: words.index(">")] if ">" in words else words

    @property
    def stdout_file(self) -> str | None:
        """Where it sends its output."""
        words = shlex.split(self.text)
        return words[words.index(">") + 1] if ">" in words else None

    @property
    def fails(self) -> bool:
        """Whether the page shows an error."""
        return any(line.startswith("ramp-edge: error:") for line in self.output)

    def __str__(self) -> str:
        return f"{self.page}: {self.text}"


def _blocks(text: str) -> Iterator[str]:
    for language, body in re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        assert language, "a block says what it is: console for commands, text for what is no command"
        assert language == "console" or not re.search(r"^(\$ )?ramp-edge ", body, re.MULTILINE) or language == "yaml"
        if language == "console":
            yield body


def _commands() -> list[Command]:
    found: list[Command] = []
    for page in PAGES:
        for block in _blocks(page.read_text(encoding="utf-8")):
            lines = block.replace("\\\n", " ").splitlines()
            for number, line in enumerate(lines):
                if not line.startswith("$ "):
                    continue
                after = lines[number + 1 :]
                output = after[: next((i for i, text in enumerate(after) if text.startswith("$ ")), len(after))]
                plain = re.sub(r"\s+# .*$", "", line[2:])
                for part in plain.split(" && "):
                    shown = tuple(output) if part == plain.split(" && ")[-1] else ()
                    found.append(
                        Command(page=page.relative_to(ROOT).as_posix(), text=" ".join(part.split()), output=shown)
                    )
    return found


COMMANDS = _commands()


def test_the_walk_finds_the_commands() -> None:
    assert len(COMMANDS) > 60
    assert {command.page for command in COMMANDS} >= {"README.md", "docs/getting-started.md", "docs/troubleshooting.md"}
    assert any(command.fails for command in COMMANDS)
    unused = set(NOT_RUN) - {command.text for command in COMMANDS}
    assert not unused, f"no page has {unused} any more"


def test_setup_is_what_ci_begins_with() -> None:
    assert "tools/setup.sh" in (ROOT / ".ci" / "run").read_text()


def _verb(words: list[str]) -> tuple[Any, str, list[str]]:
    """The command object, its name and its own arguments."""
    group: Any = typer.main.get_command(app)
    name, rest = "", words[1:]
    while hasattr(group, "commands") and rest:
        two = " ".join(rest[:2])
        key = two if two in group.commands else rest[0]
        if key not in group.commands:
            break
        group, name, rest = group.commands[key], f"{name} {key}".strip(), rest[len(key.split()) :]
    return group, name, rest


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_it_parses(command: Command) -> None:
    """Options and arguments are ones that the verb has; nothing runs."""
    words = command.words
    if words[0] not in PROGRAMS:
        assert command.text in NOT_RUN, f"{command} is no ramp-edge command: say in NOT_RUN why it is not run"
        return
    verb, name, rest = _verb(words)
    if name:
        with verb.make_context(name, list(rest)):
            pass


_SPAN = re.compile(r"`(ramp-edge [^`\n]+)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_within_sentences_have_real_options(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for span in _SPAN.findall(text.replace("\n", " ")):
        verb, name, rest = _verb(shlex.split(span))
        assert name, span
        known = {option for parameter in verb.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in rest if word.startswith("-") and word.strip("-") != ""} <= known | {"--help"}, span


def _adapted(command: Command, world: World, llama_bin: Path) -> list[str]:
    """The arguments that are run: quicker, and with the loopback board in the place of the documentation's."""
    args = [word.replace("pi@192.0.2.7", world.address) for word in command.words[1:]]
    verb = args[0]
    if command.fails:
        return args
    if verb == "build":
        args += ["--effort", "fast", *(["--ctx", "512"] if "--ctx" in args else [])]
    elif verb == "deploy" and not {"--verify", "--rollback"} & set(args):
        args += ["--runtime", "none"]
    elif verb == "bench":
        args += ["--threads", "1", "--depths", "0", "--runtime", str(llama_bin)]
    elif verb == "probe":
        args += ["--types", "Q4_0", "--rounds", "3", "--threads", "1", "--runtime", str(llama_bin)]
    return args


def _shown(outcome: Outcome) -> list[str]:
    return [line.rstrip() for line in (outcome.stdout + outcome.stderr).splitlines()]


def _matches(page: str, real: str) -> bool:
    """`...` on a page stands for anything."""
    return re.fullmatch(".*".join(map(re.escape, page.rstrip().split("..."))), real) is not None


def _runnable() -> list[Any]:
    seen: dict[str, Command] = {}
    for command in COMMANDS:
        if command.text not in NOT_RUN:
            seen.setdefault(command.text, command)
    return [pytest.param(command, id=str(command)) for command in seen.values()]


@pytest.mark.parametrize("command", _runnable())
def test_it_runs(
    command: Command, world: World, llama_bin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    shutil.copytree(world.root, here)
    monkeypatch.chdir(here)
    args = _adapted(command, world, llama_bin)
    if command.fails:
        monkeypatch.setenv("RAMP_EDGE_TARGETS", str(here / "more-targets.yaml"))
    elif args[:2] == ["gate", "init"] or args[0] == "probe":
        Path(args[args.index("-o") + 1]).unlink(missing_ok=True)
    outcome = world.run(args)
    if command.stdout_file is not None:
        Path(command.stdout_file).write_text(outcome.stdout, encoding="utf-8")
    if not command.fails:
        assert outcome.code == 0, f"{command}\n{outcome.stderr}{outcome.stdout[-2000:]}"
        return
    assert outcome.code != 0, f"{command} does not fail"
    real = _shown(outcome)
    for line in command.output:
        if line.strip() and line.strip() != "...":
            assert any(_matches(line, text) for text in real), "\n".join([str(command), line, "is not in:", *real])
