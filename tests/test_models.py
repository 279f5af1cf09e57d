"""What is released is whole, and does what its card says."""

import hashlib
import json
import sys
from pathlib import Path

import pytest
import yaml

from keras_resnet import demo, evaluate
from keras_resnet.opening import open_model
from keras_resnet.recipe import Recipe

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

MODELS = Path(__file__).parents[1] / "models"
DOCS = Path(__file__).parents[1] / "docs"
RELEASED = [DIGITS, SCENES] = ["resnet18d-digits", "resnet18d-scenes"]


@pytest.mark.parametrize("name", RELEASED)
def test_released_files_have_their_checksums(name):
    lines = (MODELS / name / "SHA256SUMS").read_text().splitlines()
    names = {line.split()[1] for line in lines}
    assert names == {"model.keras", "recipe.json", "metrics.json"}
    for line in lines:
        digest, file = line.split()
        assert hashlib.sha256((MODELS / name / file).read_bytes()).hexdigest() == digest
    assert (MODELS / name / "model.keras").stat().st_size < 4e6


@pytest.mark.addons
def test_released_digits_net_measures_what_its_card_says(tmp_path):
    demo.write_digits(tmp_path / "digits")
    check_measures(DIGITS, tmp_path / "digits", 360, 0.994)


@pytest.mark.slow
def test_released_scenes_net_measures_what_its_card_says():
    import release

    check_measures(SCENES, release.data(SCENES, 0, None), 720, 0.9)


def check_measures(name, data, examples, goal):
    measured = evaluate.run(open_model(MODELS / name), data)
    said = json.loads((MODELS / name / "metrics.json").read_text())
    assert measured["examples"] == said["examples"] == examples
    assert measured["top1"] == said["top1"]
    assert measured["confusion"] == said["confusion"]
    assert measured["loss"] == pytest.approx(said["loss"], rel=1e-3)
    card = (MODELS / name / "README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    (result,) = header["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == said["top1"]
    tops = [line.split("|") for line in card.splitlines() if line.startswith("| ")]
    seeds = [float(row[2].strip(" %")) for row in tops if row[1].strip().isdigit()]
    assert len(seeds) == 3
    assert sum(seeds) / 3 >= 100 * goal
    assert seeds[0] == pytest.approx(100 * said["top1"], abs=0.005)


@pytest.mark.parametrize("name", RELEASED)
def test_released_recipe_is_that_of_the_tool(name):
    import release

    assert Recipe.read(MODELS / name / "recipe.json") == release.recipe(name)


@pytest.mark.parametrize(
    ("net", "rows", "seeds"),
    [("resnet18", 12, 5), ("mobilenet", 6, 3), ("inception_v3", 6, 3)],
)
def test_ablation_table_is_of_its_results(net, rows, seeds):
    results = json.loads((DOCS / "ablation.json").read_text())
    places = {name: place for place, name in enumerate(results)}
    page = (DOCS / "reference" / "ablation.md").read_text()
    sections = page.split("\n## ")[1:]
    table = sections[places[net]]
    assert results[net]["how"]["command"] in table
    trained = results[net]["rows"]
    names = [name for name in trained if not name.startswith("teacher")]
    assert len(names) == rows
    for name in names:
        tops = trained[name]["top1"]
        assert len(tops) == seeds
        line = next(line for line in table.splitlines() if f"| {name} |" in line)
        assert f"| {100 * sum(tops) / seeds:.2f} ± " in line
        Recipe.from_dict(trained[name]["recipe"])


def test_lineage_page_is_of_its_results():
    results = json.loads((DOCS / "lineage.json").read_text())
    page = (DOCS / "explanation" / "lineage.md").read_text()
    assert results["how"]["command"] in page
    assert results["how"]["commit"] in page
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")]
    rows = [row for row in rows if not row[-1].startswith(("top-1", "---"))]
    assert len(rows) == len(results["nets"]) == 12
    for row, net in zip(rows, results["nets"].values(), strict=True):
        top1 = 100 * sum(net["top1"]) / len(net["top1"])
        assert row[-1].startswith(f"{top1:.1f}")
        if "parameters" in net:
            assert row[2] == f"{net['parameters']:,}"
            assert row[3] == f"{net['multiply_adds'] / 1e6:.1f}"
        else:
            errors = [100 * seed[-1] for seed in net["train_error"]]
            assert row[1].startswith(f"{sum(errors) / len(errors):.1f}")
