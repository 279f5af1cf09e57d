"""tools/soak.py: what is killed at random comes to the same end."""

import json
import subprocess
import sys
from pathlib import Path

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
