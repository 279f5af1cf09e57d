"""The command line as a person meets it: its own process, its exit codes, its lines."""

import csv
import dataclasses
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import command, write_folder

import keras_resnet
from keras_resnet.export.comparing import TOLERANCES
from keras_resnet.export.formats import FORMATS
from keras_resnet.opening import open_model
from keras_resnet.recipe import FIELD_TYPES, Recipe
from keras_resnet.recipes import RECIPES

COMMAND = Path(sys.executable).with_name("keras-resnet")
TINY = (
    "--model resnet18d --overrides {width:\\ 8,depths:\\ [1,1]} "
    "--precision float32 --train-size 32 "
    "--test-size 32 --batch-size 8 --epochs 2 --base-rate 1.0 --warmup-epochs 1"
).replace("\\ ", "\0")


def run(*arguments, cwd, wait=True):
    words = [str(a).replace("\0", " ") for a in arguments]
    process = subprocess.Popen(
        [str(COMMAND), *words],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if not wait:
        return process
    process.out, process.err = process.communicate(timeout=300)
    return process


def tiny(data, directory, *more):
    return ["train", data, directory, *TINY.split(), *more]


def test_the_version_is_the_same_everywhere():
    root = Path(__file__).parents[1]
    citation = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    changes = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\d\S*) \(\d{4}-\d\d-\d\d\)$", changes, re.MULTILINE)
    assert citation["version"] == newest[1] == keras_resnet.__version__


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with pictures, prepared records and a trained run."""
    root = tmp_path_factory.mktemp("cli")
    write_folder(root / "photos")
    done = command("prepare", "photos", "records", "--json", cwd=root)
    assert done.returncode == 0, done.err
    facts = {"path": "records", "classes": 3, "train": 36, "val": 12}
    assert json.loads(done.out) == facts
    done = command(*tiny("records", "run", "--json"), cwd=root)
    assert done.returncode == 0, done.err
    assert json.loads(done.out)["examples"] == 12
    return root


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["list"],
        ["show", "resnet50d:imagenet"],
        ["recipes"],
        ["status", "run"],
        ["train", "--help"],
    ],
    ids=" ".join,
)
def test_commands_that_only_read_import_neither_keras_nor_tensorflow(arguments, place):
    program = (
        "import atexit, sys; from keras_resnet import cli\n"
        "names = {'keras', 'tensorflow', 'matplotlib'}\n"
        "atexit.register(lambda: print('imported', sorted(names & {*sys.modules})))\n"
        f"sys.argv = {['keras-resnet', *arguments]}; cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=place, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "imported []"


def test_list_prints_every_variant_for_machines_and_people(call, tmp_path):
    done = run("list", "--json", cwd=tmp_path)
    rows = json.loads(done.out)
    assert [row["name"] for row in rows] == keras_resnet.list_models()
    d50 = next(row for row in rows if row["name"] == "resnet50d")
    assert (d50["parameters"], round(d50["macs"] / 1e9, 3)) == (25_576_264, 4.329)
    table = call("list", "*50d", cwd=tmp_path)
    assert re.search(r"resnet50d\W+25,576,264\W+4\.329\W+81\.84\W+288", table.out)
    assert "resnet18" not in table.out
    assert done.err == ""


def test_list_sorts_filters_and_draws(call, tmp_path):
    def rows(*arguments):
        done = call("list", "*50*", *arguments, "--json", cwd=tmp_path)
        assert done.returncode == 0, done.err
        return json.loads(done.out)

    best = rows("--sort", "top1", "--licence", "commercial", "--plot", "best.png")
    assert (tmp_path / "best.png").read_bytes().startswith(b"\x89PNG")
    assert (best[0]["name"], best[0]["imagenet"]) == ("resnetrs350", "tf_in1k")
    measured = [row["top1"] for row in best]
    assert measured == sorted(measured, reverse=True)
    assert all(row["commercial"] for row in best)
    everything = rows("--sort", "parameters")
    assert {"resnet50a", *(row["name"] for row in best)} <= {
        row["name"] for row in everything
    }
    for key, order in (("parameters", everything), ("macs", rows("--sort", "gmacs"))):
        values = [row[key] for row in order]
        assert values == sorted(values)
    done = call("list", "resnet50a", "--plot", "none.png", cwd=tmp_path)
    assert (done.returncode, list(tmp_path.glob("none*"))) == (1, [])
    assert "none of these variants has released weights" in done.err


def test_show_is_a_card_of_a_net_and_of_its_weights(call, tmp_path):
    card = call("show", "resnet50d:ra2_in1k", cwd=tmp_path).out
    for words in (
        "25,576,264 parameters, 4.33 GMACs",
        "Top-1 81.35 %, top-5 95.74 %",
        "Tested at 288 pixels, a crop of 0.95, bicubic; mean 0.485 0.456 0.406",
        "Trained at 224 pixels; there top-1 80.55 %",
        "RandAugment, RMSProp",
        "Licence: apache-2.0, which allows commercial use",
        "Origin: hf://timm/resnet50d.ra2_in1k",
        'keras_resnet.create("resnet50d", weights="ra2_in1k")',
    ):
        assert words in card
    done = call("show", "resnetaa50d:sw_in12k", "--json", cwd=tmp_path)
    facts = json.loads(done.out)
    assert (facts["classes"], facts["top1"], facts["commercial"]) == (11821, None, True)
    assert facts["config"]["anti_alias"] == "avg"
    card = call("show", "resnet50b:bamboo", cwd=tmp_path).out
    assert "Licence: not stated" in card
    assert "include_top=False" in card
    net = call("show", "resnet50d", cwd=tmp_path).out
    assert "ra4_e3600_r224_in1k (imagenet)" in net
    assert "none" in call("show", "resnet50a", cwd=tmp_path).out
    for name, words in (
        ("resnet50", "similar ones are resnet50a"),
        ("resnet50d:a7_in1k", "resnet50d has imagenet, "),
    ):
        done = call("show", name, cwd=tmp_path)
        assert done.returncode == 1
        assert words in done.err


def test_run_directory_is_whole_after_training(place):
    names = {path.name for path in (place / "run").iterdir()}
    assert names == {
        "best.keras",
        "checkpoints",
        "confusion.png",
        "curves.png",
        "data.json",
        "finished.json",
        "history.json",
        "log.csv",
        "metrics.json",
        "model.keras",
        "predictions.png",
        "recipe.json",
        "tensorboard",
    }


@pytest.mark.slow
def test_training_again_says_so_and_trains_nothing(call, place):
    before = (place / "run" / "checkpoints").stat().st_mtime_ns
    done = call(*tiny("records", "run"), cwd=place)
    assert done.returncode == 0
    assert "run is already trained" in done.out
    assert (place / "run" / "checkpoints").stat().st_mtime_ns == before


def test_evaluate_and_predict_work_on_a_run(call, place):
    measured = call("evaluate", "run", "photos", "--json", cwd=place)
    assert measured.err == ""
    saved = json.loads((place / "run" / "metrics.json").read_text())
    answer = json.loads(measured.out)
    # the run's records are in another order, and a sum may end in another digit
    assert answer.pop("loss") == pytest.approx(saved.pop("loss"), rel=1e-12)
    assert answer == saved
    table = call("evaluate", "run", "photos", cwd=place)
    assert re.search(r"images\W+12", table.out)
    done = call("predict", "run", "photos/val/red", "--top", 1, "--json", cwd=place)
    results = json.loads(done.out)
    assert [Path(r["file"]).name for r in results] == [
        "000.png",
        "001.jpg",
        "002.jpg",
        "003.png",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "precision"),
    [(kind, precision) for kind, some in FORMATS.items() for precision in some],
)
def test_every_export_predicts_and_is_evaluated(kind, precision, call, place, tmp_path):
    options = ("--format", kind, "--precision", precision)
    done = call("export", "run", tmp_path / "out", *options, cwd=place)
    assert done.returncode == 0, done.err
    assert f"{kind} in {precision}: off by at most " in done.out
    asked = ("photos/val/red", "photos/val/blue/000.png", "--json")
    of_run, of_file = (
        json.loads(call("predict", model, *asked, cwd=place).out)
        for model in ("run", tmp_path / "out")
    )
    assert len(of_file) == 5
    for ours, theirs in zip(of_file, of_run):
        assert (ours["file"], ours["classes"]) == (theirs["file"], theirs["classes"])
        difference = np.subtract(ours["probabilities"], theirs["probabilities"])
        assert np.abs(difference).max() <= TOLERANCES[precision]
    before = sorted((tmp_path / "out").rglob("*"))
    done = call("evaluate", tmp_path / "out" / "1", "photos", "--json", cwd=place)
    measured = json.loads(done.out)
    assert (
        measured["confusion"]
        == json.loads((place / "run" / "metrics.json").read_text())["confusion"]
    )
    assert sorted((tmp_path / "out").rglob("*")) == before


def test_predictions_of_a_bare_variant_say_that_its_weights_are_random(call, place):
    done = call("predict", "resnet18d", "photos/val/red/000.png", "--json", cwd=place)
    assert len(json.loads(done.out)) == 1
    (line,) = done.err.splitlines()
    assert line.startswith("resnet18d: its weights are random")
    done = call("predict", "run", "photos/val/red/000.png", "--json", cwd=place)
    assert done.err == ""


def test_predictions_are_written_as_csv(call, place):
    done = call("predict", "run", "photos/val/red", "--top", 2, "--csv", cwd=place)
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert len(rows) == 4 * 2
    assert [row["rank"] for row in rows] == ["1", "2"] * 4
    assert {row["class"] for row in rows} <= {"blue", "green", "red"}
    assert all(0 <= float(row["probability"]) <= 1 for row in rows)
    assert rows[0]["file"] == "photos/val/red/000.png"
    both = call("predict", "run", "photos", "--csv", "--json", cwd=place)
    assert both.returncode == 2
    assert "--csv with --json" in both.err


def assert_one_line(done, *words):
    assert done.returncode == 1
    assert done.out == ""
    lines = done.err.splitlines()
    assert len(lines) == 1, done.err
    for word in words:
        assert word in lines[0]


def test_missing_folder_is_one_line_and_nothing_else(call, tmp_path):
    done = call(*tiny("nowhere", "run"), cwd=tmp_path)
    assert_one_line(done, "nowhere", "no such folder")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_damaged_picture_is_one_line_and_nothing_else(tmp_path):
    victim = write_folder(tmp_path / "photos") / "train" / "red" / "001.jpg"
    victim.write_bytes(victim.read_bytes()[:400])
    done = run(*tiny("photos", "run", "--json"), cwd=tmp_path)
    assert_one_line(done, "photos/train/red/001.jpg", "repair or remove it")


def test_empty_class_is_one_line(call, tmp_path):
    (write_folder(tmp_path / "photos") / "train" / "teal").mkdir()
    done = call(*tiny("photos", "run"), cwd=tmp_path)
    assert_one_line(done, "photos/train/teal", "class has no pictures; add some")
    assert not (tmp_path / "run").exists()


def test_file_that_is_no_picture_is_one_line(call, tmp_path):
    (write_folder(tmp_path / "photos") / "val" / "red" / "x.jpg").write_text("<html>")
    done = call(*tiny("photos", "run"), cwd=tmp_path)
    assert_one_line(done, "photos/val/red/x.jpg", "not a JPEG", "remove it")
    assert not (tmp_path / "run").exists()


def test_class_without_validation_is_one_line(call, tmp_path):
    shutil.rmtree(write_folder(tmp_path / "photos") / "val" / "red")
    done = call(*tiny("photos", "run"), cwd=tmp_path)
    assert_one_line(done, "photos", "'red' has no validation pictures; add some")
    assert not (tmp_path / "run").exists()


def test_run_of_another_recipe_is_one_line(call, place):
    done = call(*tiny("records", "run", "--seed", 7), cwd=place)
    assert_one_line(done, "run: belongs to another run: seed is 0 there and 7 here")


def test_existing_destination_is_one_line(call, place):
    done = call("prepare", "photos", "records", cwd=place)
    assert_one_line(done, "records: exists")


def test_unwritable_destination_is_one_line(call, place, tmp_path):
    (tmp_path / "file").write_text("")
    done = call("prepare", place / "photos", tmp_path / "file" / "in", cwd=place)
    assert_one_line(done, "file")


def test_bad_recipe_value_is_one_line(call, tmp_path):
    done = call("train", "a", "b", "--label-smoothing", "2", cwd=tmp_path)
    assert_one_line(done, "label_smoothing=2.0: must be in [0, 1)")


def test_recipe_that_names_no_net_is_one_line(call, place):
    for options in (["--model", "resnet51d"], ["--overrides", "{widht: 3}"]):
        done = call("train", "records", "other", "--batch-size", 8, *options, cwd=place)
        assert_one_line(done, options[1].strip("{}").partition(":")[0])
        assert not (place / "other").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "a", "b", "--recipe", "nothing"], "--recipe"),
        (["train", "a", "b", "--epochs", "many"], "--epochs"),
        (["fly"], "No such command 'fly'"),
        (["predict", "model"], "PICTURE"),
    ],
)
def test_wrong_arguments_exit_with_2(arguments, words, call, tmp_path):
    done = call(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.err


@pytest.mark.slow
def test_ctrl_c_leaves_whole_files_and_a_run_that_goes_on(call, place, tmp_path):
    argv = tiny(place / "records", "run", "--epochs", "500", "--json")
    process = run(*argv, cwd=tmp_path, wait=False)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "history.json").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "stopped by SIGINT" in err
    assert "run the same command to resume from it" in err
    names = {path.name for path in (tmp_path / "run").iterdir()}
    whole = {"recipe.json", "data.json", "checkpoints", "history.json", "log.csv"}
    whole.add("tensorboard")
    # a file caught in the middle of being written is hidden, and replaced next time
    assert {name for name in names if not name.startswith(".")} == whole
    status = json.loads(call("status", "run", "--json", cwd=tmp_path).out)
    assert status["state"] == "stopped"
    assert 1 <= status["epoch"] < 500
    assert {row["problem"] for row in status["checkpoints"]} == {None}


def test_recipes_stand_side_by_side_and_one_is_shown_whole(call, tmp_path):
    done = call("recipes", "--json", cwd=tmp_path)
    assert json.loads(done.out) == {
        name: recipe.to_dict() for name, recipe in RECIPES.items()
    }
    table = call("recipes", cwd=tmp_path).out
    assert re.search(r"batch_size\W+256\W+1024", table)
    assert "max_bad_examples" not in table  # alike in all
    assert "…" not in table
    assert list(tmp_path.iterdir()) == []
    done = call("recipes", "--show", "gluon", "--output", "r.png", cwd=tmp_path)
    assert re.search(r"initializer\W+msra-prelu", done.out)
    assert re.search(r"max_bad_examples\W+0", done.out)
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    done = call("recipes", "--show", "glue", cwd=tmp_path)
    assert done.returncode == 2
    assert "'glue': neither a file nor one of baseline" in done.err


def test_every_field_has_an_option_that_says_what_it_is(call, tmp_path):
    done = call("train", "--help", cwd=tmp_path)
    for field in FIELD_TYPES:
        assert f"--{field.replace('_', '-')} " in done.out
    text = " ".join(done.out.split())
    words = "Epochs of linear warm-up from a rate of 0. [default: 5]"
    assert f"--warmup-epochs FLOAT {words}" in text
    groups = re.findall(r"^Recipe: (\w+):$", done.out, re.M)
    assert {*groups} == {
        field.metadata["group"] for field in dataclasses.fields(Recipe)
    }
    assert len(groups) == len({*groups})
    assert "--overrides YAML" in done.out
    assert '"{width: 32' in done.out  # a mapping has an example


def test_audit_prints_what_decays_and_trains_nothing(call, place, tmp_path):
    done = call(*tiny(place / "photos", "run", "--audit", "--json"), cwd=tmp_path)
    rows = {row["variable"]: row for row in json.loads(done.out)}
    assert rows["head/kernel"] == {
        "variable": "head/kernel",
        "shape": [16, 3],
        "decays": True,
        "rate": 1.0,
    }
    assert rows["stem/conv1/norm/gamma"]["decays"] is False
    done = call(
        *tiny(place / "photos", "run", "--audit"), "--stage-rates", "[0,1,1e-1]",
        cwd=tmp_path,
    )  # fmt: skip
    assert re.search(r"stem/conv1/conv/kernel\W+3 x 3 x 3 x 4\W+no\W+frozen", done.out)
    assert re.search(r"stage2_block0/conv1/conv/kernel.*yes\W+x 0.1", done.out)
    assert "variables decay" in done.out
    assert "…" not in done.out  # at 80 columns no name is cut off
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_fine_tuning_is_one_command(call, place, tmp_path):
    done = call(
        "train", place / "photos", "tuned", "--recipe", "fine-tune", "--weights",
        place / "run", "--epochs", 2, "--batch-size", 8,
        "--train-size", 32, "--ema", 0.5, "--json", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.err
    recipe = json.loads((tmp_path / "tuned" / "recipe.json").read_text())
    assert recipe["model"] == "resnet18d"  # those of the run it starts from
    assert recipe["overrides"] == {"width": 8, "depths": [1, 1]}
    metrics = json.loads(done.out)
    assert metrics["examples"] == metrics["ema"]["examples"] == 12
    kept = tmp_path / "tuned" / "metrics.json"
    assert json.loads(kept.read_text()) == metrics
    kept.unlink()
    call("evaluate", "tuned", place / "photos", "--json", cwd=tmp_path)
    assert json.loads(kept.read_text()) == metrics
    others = write_folder(tmp_path / "others", train=1, val=2)
    done = call("evaluate", "tuned", others, "--json", cwd=tmp_path)
    assert json.loads(done.out)["examples"] == 6
    assert json.loads(kept.read_text()) == metrics  # which are of the run's own data
    tuned = open_model(tmp_path / "tuned")
    assert tuned.info.protocol == open_model(place / "run").info.protocol


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--base-rate -1", "base_rate=-1.0: must be in [0, inf)"),
        ("--warmup-epochs 5", "warmup_epochs=5.0: must be less than epochs=2"),
        ("--temperature 20", "distillation needs both"),
        ("--teacher resnet152d:imagenet --temperature 20", "1000 classes, but the"),
        ("--teacher resnet152d --temperature 20", "a variant without weights; give"),
        ("--weights nowhere.pth", "nowhere.pth"),
        ("--weights best", "weights='best': resnet18d has imagenet, "),
        ("--stage-rates [0,1]", "stage_rates=(0.0, 1.0): must be 3"),
        ("--stage-rates {", "stage_rates='{': must be YAML"),
    ],
)
def test_recipe_that_cannot_be_trained_is_one_line(options, words, call, place):
    done = call(*tiny("records", "other", "--json"), *options.split(), cwd=place)
    assert_one_line(done, words)
    assert not (place / "other").exists()
