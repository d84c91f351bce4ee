"""Budget files: every mistake is named with file, line and the way out, all at once; sections add to defaults."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramp_edge.errors import BudgetFileError
from ramp_edge.gate.budget_file import EXAMPLE, read_budget
from ramp_edge.gate.rules import Limit, Regression

RULES = """\
defaults:
  - size_bytes <= 95 MB
  - kl_mean < 0.05
  - kl_mean: +10%
devices:
  pi:
    - size_bytes <= 80 MB
    - kl_mean: skip
    - decode_tok_s >= 12
    - decode_tok_s: -5%
  kitchen:
    - size_bytes <= 70 MB
    - kl_mean <= 0.2
"""


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "budgets.yaml"
    path.write_text(RULES)
    return path


def test_defaults_stand_alone(rules: Path) -> None:
    size, kl, change = read_budget(rules).rules_for(())[0]
    assert isinstance(size, Limit)
    assert (size.metric.name, size.operator, size.bound, size.place.line) == ("size_bytes", "<=", 95e6, 2)
    assert isinstance(kl, Limit)
    assert (kl.allows(0.05), kl.allows(0.0499)) == (False, True)
    assert isinstance(change, Regression)
    assert (change.metric.name, change.allowed, change.place.line) == ("kl_mean", 0.1, 4)


def test_a_device_adds_replaces_and_skips(rules: Path) -> None:
    found, skipped = read_budget(rules).rules_for(("pi",))
    assert [rule.text for rule in found] == [
        "size_bytes <= 80 MB",
        "decode_tok_s.median >= 12",
        "decode_tok_s.median: -5%",
    ]
    assert [skip.metric.name for skip in skipped] == ["kl_mean"]


def test_the_board_s_own_section_has_the_last_word(rules: Path) -> None:
    found, skipped = read_budget(rules).rules_for(("pi", "kitchen"))
    texts = [rule.text for rule in found]
    assert "size_bytes <= 70 MB" in texts and "kl_mean <= 0.2" in texts and "decode_tok_s.median >= 12" in texts
    assert not skipped, "kitchen has a rule for it again"


def test_quotes_change_nothing(rules: Path) -> None:
    plain = read_budget(rules)
    rules.write_text(
        RULES.replace("- kl_mean: skip", '- "kl_mean: skip"').replace("- kl_mean: +10%", "- 'kl_mean: +10%'")
    )
    assert read_budget(rules) == plain


def test_the_example_of_the_hint_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "budgets.yaml"
    path.write_text(EXAMPLE)
    assert set(read_budget(path).devices) == {"raspberry-pi-5-8gb"}


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("defalts: []\n", 1, "did you mean 'defaults'?"),
        ("rules: []\n", 1, "unknown key: a budget has defaults and devices"),
        ("defaults:\n  - sise_bytes <= 9 MB\n", 2, "did you mean 'size_bytes'?"),
        ("defaults:\n  - size_bytes >= 9 MB\n", 2, "better lower, so its limit is <= or <"),
        ("defaults:\n  - decode_tok_s <= 9\n", 2, "better higher, so its limit is >= or >"),
        ("defaults:\n  - size_bytes == 9 MB\n", 2, "its limit is <= or <"),
        ("defaults:\n  - size_bytes <= 9\n", 2, "has no unit"),
        ("defaults:\n  - size_bytes\n", 2, "is no rule: write `size_bytes <= 95 MB`"),
        ("defaults:\n  - 12\n", 2, "is no rule"),
        ("defaults:\n  - {}\n", 2, "is no rule"),
        ("defaults:\n  - [size_bytes <= 9 MB]\n", 2, "is no rule"),
        ("defaults:\n  - size_bytes: 9 MB\n", 2, "write `size_bytes: +5%`"),
        ("defaults:\n  - kl_mean: -5%\n", 2, "so a regression is written +5%"),
        ("defaults:\n  - kl_mean: 5%\n", 2, "so a regression is written +5%"),
        ("defaults:\n  - decode_tok_s: +5%\n", 2, "so a regression is written -5%"),
        ("defaults:\n  - decode_tok_s: -100%\n", 2, "allows everything"),
        ("defaults:\n  - kl_mean: 0.05\n", 2, "is not understood"),
        ("defaults:\n  - load_s: +5%\n", 2, "measured once, so its noise is not known: give a limit"),
        ("defaults:\n  - ppl_ratio: +5%\n", 2, "compares with the reference already: give a limit"),
        ("defaults:\n  - decode_tok_s.min: -5%\n", 2, "compare the median"),
        ("defaults:\n  - size_bytes: skip\n", 2, "only a device's section can skip"),
        (
            "defaults:\n  - kl_mean <= 1\n  - size_bytes <= 1 MB\n  - kl_mean <= 2\n",
            4,
            "such a rule already, on line 2",
        ),
        ("defaults:\n  - decode_tok_s >= 1\n  - decode_tok_s.median >= 2\n", 3, "such a rule already, on line 2"),
        ("defaults:\n", 1, "is empty"),
        ("defaults: size_bytes <= 9 MB\n", 1, "must be a list of rules"),
        ("devices:\n  pi:\n", 2, "devices.pi: is empty"),
        ("devices:\n  pi: 3\n", 2, "must be a list of rules"),
        ("devices: [pi]\n", 1, "must map names of devices"),
        ("devices:\n  pi: []\n", 1, "has no rule"),
        ("defaults: []\n", 1, "has no rule"),
        ("devices:\n  pi: [kl_mean <= 1]\n  pi: [kl_mean <= 2]\n", 3, "given twice"),
        ("- size_bytes <= 9 MB\n", 1, "a budget is a mapping"),
        ("defaults: [\n", 2, "not valid YAML"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    path = tmp_path / "budgets.yaml"
    path.write_text(text)
    with pytest.raises(BudgetFileError) as caught:
        read_budget(path)
    assert f"{path}:{line}" in caught.value.message
    assert words in caught.value.message


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "budgets.yaml"
    path.write_text(
        "defaults:\n  - x <= 1\n  - kl_mean: 9\n    kl_p99: +1%\ndevices:\n  a:\n    - size_bytes > 1\nc: 1\n"
    )
    with pytest.raises(BudgetFileError) as caught:
        read_budget(path)
    lines = sorted(int(line.split(":")[1]) for line in caught.value.message.splitlines())
    assert lines == [2, 3, 4, 7, 8]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BudgetFileError, match="cannot be read"):
        read_budget(tmp_path / "none.yaml")


@given(st.text(max_size=40))
def test_no_rule_is_understood_by_accident(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Whatever stands there, it is a rule that was meant or an error of ours."""
    from ramp_edge.gate.rules import parse_limit
    from ramp_edge.yaml_source import Place

    try:
        rule = parse_limit(text, Place(path=Path("b"), line=1))
    except ValueError:
        return
    assert rule.metric.name.split(".")[0] in text
