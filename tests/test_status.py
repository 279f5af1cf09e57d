"""A run directory says where its run stands."""

import json
import shutil

import pytest

from keras_resnet.errors import RunError
from keras_resnet.runs.process import locked
from keras_resnet.runs.status import status


@pytest.fixture
def copy(trained, tmp_path):
    return shutil.copytree(trained[0], tmp_path / "run")


def test_finished_run_has_its_history_and_whole_checkpoints(trained):
    facts = status(trained[0])
    assert facts["state"] == "finished"
    assert facts["process"] is None
    assert (facts["epoch"], facts["batch"], facts["epochs"]) == (3, 0, 3)
    assert facts["history"] == json.loads((trained[0] / "history.json").read_text())
    assert [row["problem"] for row in facts["checkpoints"]] == [None, None]
    newest = facts["checkpoints"][-1]
    assert newest["name"] == "epoch00003-batch0000000"
    assert newest["bytes"] > 50_000
    scores = [row["val_top1"] for row in facts["history"]]
    best = {"epoch": 1 + scores.index(max(scores)), "val_top1": max(scores)}
    assert facts["best"] == best


def test_damaged_checkpoint_is_told_and_the_one_before_counts(copy):
    state = copy / "checkpoints" / "epoch00003-batch0000000" / "state.npz"
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)
    facts = status(copy)
    assert facts["epoch"] == 2
    assert facts["state"] == "stopped"
    problems = [row["problem"] for row in facts["checkpoints"]]
    assert problems[0] is None
    assert "SHA-256" in problems[1]


def test_running_run_names_its_process(copy):
    with locked(copy):
        facts = status(copy)
    assert facts["state"] == "running"
    assert facts["process"].startswith("process ")
    assert status(copy)["state"] == "finished"


def test_nothing_is_changed(trained):
    before = {path: path.stat().st_mtime_ns for path in trained[0].rglob("*")}
    status(trained[0])
    assert before == {path: path.stat().st_mtime_ns for path in trained[0].rglob("*")}


def test_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(RunError, match=r"no recipe\.json; train a run there first"):
        status(tmp_path)


def test_command_prints_it_and_fails_on_damage(call, copy):
    done = call("status", copy, cwd=copy.parent)
    assert done.returncode == 0
    for words in ("finished", "3 of 3", "epoch00003-batch0000000", "val loss"):
        assert words in done.out
    assert json.loads(call("status", copy, "--json", cwd=copy.parent).out) == status(
        copy
    )
    (copy / "checkpoints" / "epoch00003-batch0000000" / "manifest.json").unlink()
    done = call("status", copy, cwd=copy.parent)
    assert done.returncode == 1
    assert "manifest.json is missing" in done.out
