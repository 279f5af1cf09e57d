"""A server under load answers each as it answers one, and its memory stays flat."""

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import load  # noqa: E402

GROWTH = 0.04  # of the memory that a warm server has


def assert_right(found, clients):
    for stage, count in zip(found["stages"], clients):
        assert stage["alive"]
        assert stage["wrong"] == 0, stage["examples"]
        assert stage["requests"] > count
    assert found["exit_code"] == 0


@pytest.mark.slow
def test_answers_under_a_second_of_load_are_right(place, monkeypatch):
    monkeypatch.setattr(load, "PICTURES", 14)  # two of each size
    assert_right(load.run(place, [4], 1, print, warm_up=0), [4])


@pytest.mark.slow
def test_minutes_of_load_are_answered_right_and_memory_is_flat(place):
    clients = [1, 8, 32]
    found = load.run(place, clients, 60)
    assert_right(found, clients)
    memory = [stage["memory_mib"] for stage in found["stages"]]
    quarter = len(memory[0]) // 4
    before, after = np.median(memory[0][:quarter]), np.median(memory[-1][-quarter:])
    assert after < (1 + GROWTH) * before
    for values in memory:  # nor does it rise and fall
        assert max(values) < (1 + 3 * GROWTH) * before


def test_equal_allows_for_rounding_and_for_nothing_else():
    def answer(*probabilities, name="a", ok=True):
        row = {"probabilities": list(probabilities), "ok": ok, "top_classes": [name]}
        row["top_probabilities"] = sorted(probabilities, reverse=True)
        return 200, {"predictions": [row]}

    expected = answer(0.7, 0.3)
    assert load.equal(answer(0.700001, 0.299999), expected)
    assert not load.equal(answer(0.7001, 0.2999), expected)
    assert not load.equal(answer(0.7, 0.3, name="b"), expected)
    assert not load.equal(answer(0.7, 0.3, ok=False), expected)
    assert load.equal(answer(0.5, 0.5, name="b"), answer(0.5, 0.5))
    assert not load.equal((400, {"error": "x"}), (400, {"error": "y"}))
    assert not load.equal((503, {"error": "x"}), expected)
