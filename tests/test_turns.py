"""tools/turns.py: sides of a comparison, one at a time."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

import turns

SIDE = f"""
import sys, time
sys.path.insert(0, {str(Path(turns.__file__).parent)!r})
import turns
name, log = sys.argv[1:]

def start():
    print("a library says hello")  # and harms no answer
    if name == "poor":
        raise ImportError("no module of\\nthat name")
    if name == "broken":
        raise ValueError("it does not work")
    rounds = []

    def work():
        rounds.append(1)
        with open(log, "a") as stream:
            stream.write(f"{{name}}{{len(rounds)}} ")
        return {{"rate": len(rounds) * (3.0 if name == "fast" else 2.0)}}

    return work

turns.answer(start)
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "side.py"
    path.write_text(SIDE)
    return path


def test_sides_take_turns_and_the_first_round_does_not_count(script, tmp_path):
    log = tmp_path / "log"
    answers = turns.take(script, ["fast", "slow"], [log], rounds=3)
    assert log.read_text().split() == [
        f"{name}{turn}" for turn in (1, 2, 3, 4) for name in ("fast", "slow")
    ]
    assert answers["fast"] == [{"rate": 6.0}, {"rate": 9.0}, {"rate": 12.0}]
    ratios = turns.ratios(answers, "fast", "slow", "rate")
    assert ratios == {"ratio": 1.5, "least": 1.5, "most": 1.5}
    spread = turns.spread(answers, "slow", "rate")
    assert spread == {"rate": 6.0, "least": 4.0, "most": 8.0}


def test_ratio_is_of_each_round_and_not_of_medians():
    rates = {"ours": [10.0, 1.0, 30.0], "theirs": [5.0, 4.0, 60.0]}
    answers = {name: [{"rate": rate} for rate in row] for name, row in rates.items()}
    ratios = turns.ratios(answers, "ours", "theirs", "rate")
    assert ratios == {"ratio": 0.5, "least": 0.25, "most": 2.0}  # of medians 2.0


def test_side_that_lacks_something_is_skipped_with_a_line(script, tmp_path, capsys):
    names = ["poor", "fast", "timm"]
    answers = turns.take(script, names, [tmp_path / "log"], rounds=1)
    assert list(answers) == ["fast"]
    assert capsys.readouterr().err.splitlines() == [
        "3 sides, 2 rounds: about 1 min",
        "poor: skipped: no module of that name",
        "timm: skipped: no --python",
        "round 0 of 1, fast: rate 3",
        "round 1 of 1, fast: rate 6",
    ]
    names = ["timm"]
    answers = turns.take(script, names, [tmp_path / "log"], 1, python=sys.executable)
    assert answers == {"timm": [{"rate": 4.0}]}


def test_only_the_sides_that_are_named_run(script, tmp_path):
    log = tmp_path / "log"
    answers = turns.take(script, ["fast", "slow"], [log], 1, only=["slow"])
    assert answers == {"slow": [{"rate": 4.0}]}
    assert log.read_text().split() == ["slow1", "slow2"]


def test_side_that_fails_ends_the_comparison_with_what_it_said(script, tmp_path):
    with pytest.raises(SystemExit, match="it does not work"):
        turns.take(script, ["fast", "broken"], [tmp_path / "log"], rounds=1)
    with pytest.raises(SystemExit, match="SyntaxError"):
        turns.run([sys.executable, "-c", "!"])


def test_results_are_markdown_tables():
    result = {
        "commit": "abc",
        "sides": [{"side": "ours", "rate": 1234.5}, {"side": "theirs", "goal": 1}],
        "load": {"s": 0.12345},
    }
    assert turns.tables(result).splitlines() == [
        "- commit: abc",
        "",
        "| side | rate | goal |",
        "| --- | --- | --- |",
        "| ours | 1234 |  |",
        "| theirs |  | 1 |",
        "",
        "load:",
        "- s: 0.123",
    ]
