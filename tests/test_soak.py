"""Long runs: what is killed at random comes to the same end, and nothing grows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SOAK = Path(__file__).parent.parent / "tools" / "soak.py"
KILLS = 20


@pytest.mark.slow
def test_run_killed_at_random_equals_the_uninterrupted_one():
    done = subprocess.run(
        [sys.executable, SOAK, "--kills", str(KILLS), "--seed", "7", "--json"],
        capture_output=True,
        text=True,
        timeout=1800,
    )
    result = json.loads(done.stdout)
    assert done.returncode == 0, result
    assert result["equal"]
    assert result["hashes"] == result["hashes_in_peace"]
    assert set(result["hashes"]) == {
        *["state", "model.keras", "model_ema.keras", "history.json", "log.csv"]
    }
    # the run may come to its end a little before the last of them
    assert KILLS / 2 <= result["survived"] <= KILLS
    assert result["lives"] == result["survived"] + 1
    assert result["failed"] == result["leftovers"] == []
    assert result["rejected"] == 0
    assert len(result["hit"]) > 2
    assert set(result["exits"]) <= {"-9", "-15", "75"}
    assert result["exits"]["-9"] > 1


_LONG = """
import json, os, sys
import keras
import numpy as np
from resume_program import RECIPE
from keras_resnet import train

steps, total = map(int, sys.argv[2:])
seen = []

class Use(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        pages = int(open("/proc/self/statm").read().split()[1])
        files = len(os.listdir("/proc/self/fd"))
        seen.append([pages * os.sysconf("SC_PAGE_SIZE"), files])

drawn = np.random.default_rng(0)
data = {
    split: (drawn.integers(0, 256, (size, 36, 36, 3), np.uint8), np.arange(size) % 3)
    for split, size in (("train", RECIPE.batch_size * steps), ("val", 8))
}
recipe = RECIPE.replace(epochs=total // steps)
train.fit(recipe, data, sys.argv[1], Use(), checkpoint_steps=10)
print(json.dumps(seen))
"""


@pytest.mark.slow
def test_memory_and_open_files_stay_flat_over_5000_steps(tmp_path):
    steps, total = 50, 5000  # with a checkpoint every 10
    done = subprocess.run(
        [sys.executable, "-c", _LONG, tmp_path / "run", str(steps), str(total)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    use = np.array(json.loads(done.stdout))
    assert len(use) == total // steps
    memory, files = use[len(use) // 5 :].T  # what starts late has started
    slope, _ = np.polyfit(steps * np.arange(len(memory)), memory, 1)
    assert slope < 2000  # bytes a step; measured 400, until some was given back
    # the first fifth has the same files open as what follows
    assert files.max() <= use[: len(use) // 5, 1].max()
