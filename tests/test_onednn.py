"""oneDNN: on for the command line and servers, recommended to callers, never forced."""

import json
import os
import subprocess
import sys

import pytest

from keras_resnet import evaluate, export, onednn, train

# what TensorFlow itself says, and what the library prints
PROGRAM = """
import json, os, sys
from keras_resnet import cli, onednn
if os.environ.pop("COMMAND", ""):
    sys.argv = ["keras-resnet", "--version"]
    try:
        cli.program()
    except SystemExit:
        pass
onednn.recommend()
onednn.recommend()
from tensorflow.python.util import _pywrap_util_port as built
print(json.dumps({"on": built.IsMklEnabled(), "set": os.environ.get(onednn.VARIABLE)}))
"""


def start(**environment):
    """(what the program prints, our lines on its stderr; TensorFlow has its own)."""
    clean = {k: v for k, v in os.environ.items() if k != onednn.VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    ours = "TensorFlow leaves oneDNN off"
    lines = [line for line in done.stderr.splitlines() if line.startswith(ours)]
    return json.loads(done.stdout.splitlines()[-1]), lines


@pytest.mark.slow
def test_library_leaves_the_environment_and_recommends_oneDNN_where_it_is_off():
    facts, lines = start()
    assert facts["set"] is None
    # some processors have it on by themselves
    assert len(lines) == (0 if facts["on"] else 1)


@pytest.mark.slow
def test_users_choice_is_heard():
    assert start(TF_ENABLE_ONEDNN_OPTS="0") == ({"on": False, "set": "0"}, [])
    chosen = {"COMMAND": "1", "TF_ENABLE_ONEDNN_OPTS": "0"}
    assert start(**chosen) == ({"on": False, "set": "0"}, [])


@pytest.mark.slow
def test_command_line_turns_oneDNN_on():
    facts, lines = start(COMMAND="1")
    assert facts == {"on": True, "set": "1"}
    assert lines == []


class Recommended(Exception):
    pass


@pytest.mark.parametrize("work", ["fit", "run", "save"])
def test_library_recommends_before_it_works(
    work, tiny, folder, trained, tmp_path, monkeypatch
):
    def recommend():
        raise Recommended

    monkeypatch.setattr(onednn, "recommend", recommend)
    calls = {
        "fit": lambda: train.fit(tiny, folder, tmp_path / "run"),
        "run": lambda: evaluate.run(trained[1], folder),
        "save": lambda: export.save(trained[1], tmp_path / "export"),
    }
    with pytest.raises(Recommended):
        calls[work]()
    assert list(tmp_path.iterdir()) == []
