"""What is released is whole, and does what its card says."""

import hashlib
import json
from pathlib import Path

import pytest

from keras_resnet import demo, evaluate
from keras_resnet.opening import open_model
from keras_resnet.recipe import Recipe
from keras_resnet.recipes import RECIPES

MODELS = Path(__file__).parents[1] / "models"
DIGITS = MODELS / "resnet18d-digits"


def test_released_files_have_their_checksums():
    lines = (DIGITS / "SHA256SUMS").read_text().splitlines()
    names = {line.split()[1] for line in lines}
    assert names == {"model.keras", "recipe.json", "metrics.json"}
    for line in lines:
        digest, name = line.split()
        assert hashlib.sha256((DIGITS / name).read_bytes()).hexdigest() == digest
    assert (DIGITS / "model.keras").stat().st_size < 4e6


@pytest.mark.addons
def test_released_model_measures_what_its_card_says(tmp_path):
    demo.write_digits(tmp_path / "digits")
    measured = evaluate.run(open_model(DIGITS), tmp_path / "digits")
    said = json.loads((DIGITS / "metrics.json").read_text())
    assert measured["examples"] == said["examples"] == 360
    assert measured["top1"] == said["top1"]
    assert measured["confusion"] == said["confusion"]
    assert measured["loss"] == pytest.approx(said["loss"], rel=1e-3)
    card = (DIGITS / "README.md").read_text()
    tops = [line.split("|") for line in card.splitlines() if line.startswith("| ")]
    seeds = [float(row[2].strip(" %")) for row in tops if row[1].strip().isdigit()]
    assert len(seeds) == 3
    assert sum(seeds) / 3 >= 99.4
    assert seeds[0] == pytest.approx(100 * said["top1"], abs=0.005)


def test_released_recipe_is_readable_and_of_the_demo():
    recipe = Recipe.read(DIGITS / "recipe.json")
    assert recipe == RECIPES["demo"].replace(name="resnet18d-digits", epochs=60)


def test_ablation_table_is_of_its_results():
    results = json.loads((MODELS / "ablation" / "results.json").read_text())
    table = (MODELS / "ablation" / "README.md").read_text()
    rows = [name for name in results if not name.startswith("teacher")]
    assert len(rows) == 12
    for name in rows:
        tops = results[name]["top1"]
        assert len(tops) == 5
        line = next(line for line in table.splitlines() if f"| {name} |" in line)
        assert f"| {100 * sum(tops) / 5:.2f} ± " in line
        Recipe.from_dict(results[name]["recipe"])
