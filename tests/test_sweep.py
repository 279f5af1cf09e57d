"""A sweep is its runs: interrupted or not, the same trials with the same values."""

import contextlib
import json
import math
import signal
import sys

import numpy as np
import optuna
import pytest
from PIL import Image

from keras_resnet.errors import Diverged, RecipeError, RunError
from keras_resnet.recipe import Recipe
from keras_resnet.runs import layout
from keras_resnet.train import Interrupted, sweeps
from keras_resnet.train.sweeps import suggest, sweep

SPACE = {
    "base_rate": {"low": 0.01, "high": 1, "log": True},
    "patience": {"low": 1, "high": 30},
    "betas": {"choices": [[0.9, 0.99], [0.9, 0.999]]},
    "warmup_epochs": {"choices": [0, 1, 3]},  # 3 is all epochs of the tiny recipe
}


def score(recipe):
    """A best value at base_rate=0.1, of the second epoch."""
    return 0.9 - abs(math.log10(recipe.base_rate) + 1) / 4 - recipe.patience / 1000


class Trainer:
    """Stands for `fit`: writes the files that tell of a run, and counts."""

    def __init__(self):
        self.trained, self.bars, self.ends_at = [], [], None

    def __call__(self, recipe, source, run, bar):
        run.mkdir(exist_ok=True)
        self.trained.append(run.name)
        self.bars.append(bar)
        data = {"path": "", "class_names": list(source.class_names)}
        data |= {"data_hash": source.fingerprint}
        (run / layout.DATA).write_text(json.dumps(data))
        (run / layout.RECIPE).write_text(json.dumps(recipe.to_dict()))
        if len(self.trained) == self.ends_at:
            raise Interrupted("run the same command to resume")
        if recipe.base_rate > 0.7:
            raise Diverged(f"{run}: the loss\nis not finite")
        rows = [
            {"epoch": epoch + 1, "val_top1": score(recipe) - loss}
            for epoch, loss in enumerate((0.1, 0, 0.05))
        ]
        (run / layout.HISTORY).write_text(json.dumps(rows))
        (run / layout.MODEL).touch()
        (run / layout.FINISHED).write_text(json.dumps({"of": recipe.epochs}))


@pytest.fixture
def trainer(monkeypatch):
    trainer = Trainer()
    monkeypatch.setattr(sweeps, "fit", trainer)
    return trainer


def of(rows):
    return {row["run"][-4:]: {**row, "run": None} for row in rows}


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_interruption_changes_nothing(sampler, trainer, tiny, folder, tmp_path):
    whole = sweep(tiny, folder, tmp_path / "whole", SPACE, 16, sampler)
    assert trainer.trained == sorted({*trainer.trained})
    for trials, ends_at in (16, 3), (16, 4), (12, None), (16, None):
        trainer.trained, trainer.ends_at = [], ends_at
        ended = pytest.raises(Interrupted) if ends_at else contextlib.nullcontext()
        with ended:
            parts = sweep(tiny, folder, tmp_path / "parts", SPACE, trials, sampler)
    assert of(parts) == of(whole)
    trainer.trained = []
    assert sweep(tiny, folder, tmp_path / "parts", SPACE, 16, sampler) == parts
    assert trainer.trained == []


def test_half_trained_trial_keeps_its_fields(trainer, tiny, folder, tmp_path):
    trainer.ends_at = 2
    with pytest.raises(Interrupted):
        sweep(tiny, folder, tmp_path / "s", SPACE, 4)
    path = tmp_path / "s" / trainer.trained[-1] / layout.RECIPE
    path.write_text(json.dumps({**json.loads(path.read_text()), "patience": 29}))
    sweep(tiny, folder, tmp_path / "s", SPACE, 4)
    assert Recipe.read(path).patience == 29
    assert trainer.trained[1:3] == [path.parent.name] * 2


def test_rows_are_of_the_runs(trainer, tiny, folder, tmp_path, capsys):
    rows = sweep(tiny, folder, tmp_path / "s", SPACE, 20)
    failed = [row for row in rows if row["failed"]]
    done = rows[: len(rows) - len(failed)]
    assert failed == rows[len(done) :]
    assert {row["epoch"] for row in done} == {2}
    values = [row["value"] for row in done]
    assert values == sorted(values, reverse=True)
    for row in done:
        recipe = tiny.replace(**row["fields"])
        assert row["value"] == score(recipe)
        assert Recipe.read(f"{row['run']}/{layout.RECIPE}") == recipe
        assert recipe.seed == tiny.seed
    reasons = {row["failed"].partition(":")[0].partition("=")[0] for row in failed}
    assert "warmup_epochs" in reasons  # 3 is not less than the 3 epochs
    assert capsys.readouterr().err.count(": failed: ") == len(failed)
    stored = json.loads((tmp_path / "s/trials.json").read_text())
    assert [row["run"][-4:] for row in stored] == [f"{it:04d}" for it in range(20)]
    assert of(stored) == of(json.loads(json.dumps(rows)))
    with Image.open(tmp_path / "s/sweep.png") as image:
        assert image.size[0] > 3 * image.size[1]


def test_loss_that_is_not_finite_fails_one_trial(trainer, tiny, folder, tmp_path):
    space = {"base_rate": {"choices": [0.1, 0.8]}}
    rows = sweep(tiny, folder, tmp_path / "s", space, 8)
    failed = {row["fields"]["base_rate"]: row["failed"] for row in rows}
    assert failed[0.1] == ""
    assert failed[0.8].endswith("the loss is not finite")
    count = len(trainer.trained)
    assert sweep(tiny, folder, tmp_path / "s", space, 8) == rows
    assert len(trainer.trained) == count == 8


def test_other_errors_end_it_and_are_not_remembered(
    trainer, tiny, folder, tmp_path, monkeypatch
):
    def full(*_):
        raise RunError("the checkpoint cannot be written")

    with monkeypatch.context() as patch:
        patch.setattr(sweeps, "fit", full)
        with pytest.raises(RunError, match="cannot be written"):
            sweep(tiny, folder, tmp_path / "s", SPACE, 2)
    assert not list(tmp_path.rglob(layout.FAILED))
    assert len(sweep(tiny, folder, tmp_path / "s", SPACE, 2)) == 2


def test_tpe_finds_more_than_chance(tiny):
    """By the mean of what it suggests after 30 trials, over five seeds."""
    space = {"base_rate": {"low": 1e-4, "high": 10.0, "log": True}}
    means = {}
    for sampler in sweeps.SAMPLERS:
        values = []
        for seed in range(5):
            recipe, rows = tiny.replace(seed=seed), []
            for _ in range(40):
                fields = suggest(recipe, space, sampler, rows)
                value = score(tiny.replace(**fields))
                rows.append({"fields": fields, "value": value, "failed": ""})
            values += [row["value"] for row in rows[30:]]
        means[sampler] = np.mean(values)
    assert means["tpe"] > means["random"] + 0.1


def test_random_values_cover_the_space_evenly(tiny):
    space = {
        "base_rate": {"low": 1e-3, "high": 1.0, "log": True},
        "patience": {"low": 1, "high": 4, "log": False},
    }
    rows = []
    for _ in range(100):
        fields = suggest(tiny, space, "random", rows)
        rows.append({"fields": fields, "value": 0.5, "failed": ""})
    places = np.log10([row["fields"]["base_rate"] for row in rows])
    # standard errors: 3 / sqrt(12 * 100) = 0.09, and 4 of 25
    assert np.mean(places) == pytest.approx(-1.5, abs=0.25)
    assert -3 <= places.min() < -2.7
    assert -0.3 < places.max() <= 0
    counts = np.bincount([row["fields"]["patience"] for row in rows])
    assert counts[0] == 0
    assert len(counts) == 5
    assert counts[1:].min() > 10


@pytest.mark.parametrize(
    ("space", "says"),
    [
        ({}, "must map fields"),
        ({"base_rat": {"low": 0, "high": 1}}, "unknown recipe field 'base_rat'"),
        ({"base_rate": 0.1}, r"base_rate=0.1: must be \{low"),
        ({"base_rate": {"low": 0.1}}, r"must be \{low"),
        ({"base_rate": {"choices": []}}, r"must be \{low"),
        ({"base_rate": {"low": 0.1, "high": 1, "step": 1}}, r"must be \{low"),
        ({"base_rate": {"low": 1, "high": 1}}, "low must be less than high"),
        ({"base_rate": {"low": 0, "high": 1, "log": True}}, "above 0 if log"),
        ({"base_rate": {"low": "a", "high": 1}}, "base_rate='a': must be float"),
        ({"batch_size": {"low": 0.5, "high": 8}}, "batch_size=0.5: must be int"),
        ({"momentum": {"low": 0, "high": 1}}, r"momentum=1.0: must be in \[0, 1\)"),
        ({"overrides": {"low": 0, "high": 1}}, "the field is not a number"),
        ({"optimizer": {"choices": ["adam"]}}, "optimizer='adam': must be one of"),
        ({"monitor": {"choices": ["val_top1"]}}, "what is compared"),
    ],
)
def test_invalid_space_is_refused(space, says, tiny, folder, tmp_path):
    with pytest.raises(RecipeError, match=says):
        sweep(tiny, folder, tmp_path / "s", space, 1)
    assert not (tmp_path / "s").exists()


def test_invalid_arguments_are_refused(tiny, folder, tmp_path, monkeypatch):
    with pytest.raises(RecipeError, match="trials=0: must be 1 or more"):
        sweep(tiny, folder, tmp_path / "s", SPACE, 0)
    with pytest.raises(RecipeError, match="sampler='grid': must be one of tpe, random"):
        sweep(tiny, folder, tmp_path / "s", SPACE, 1, "grid")
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(RecipeError, match=r"pip install keras-resnet-d\[sweep\]"):
        sweep(tiny, folder, tmp_path / "s", SPACE, 1)
    assert not (tmp_path / "s").exists()


def test_folder_of_another_sweep_is_refused(
    trainer, tiny, folder, own_folder, tmp_path
):
    place = tmp_path / "s"
    sweep(tiny, folder, place, SPACE, 1)
    rate = {"base_rate": {"low": 0.01, "high": 2}}
    for recipe, data, space, sampler, says in (
        (tiny.replace(epochs=4), folder, SPACE, "tpe", "epochs is 3 there and 4 here"),
        (tiny, own_folder, SPACE, "tpe", "data_hash is "),
        (tiny, folder, rate, "tpe", "space is "),
        (tiny, folder, SPACE, "random", "sampler is 'tpe' there and 'random' here"),
    ):
        with pytest.raises(RunError, match=f"belongs to another sweep: {says}"):
            sweep(recipe, data, place, space, 1, sampler)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes").touch()
    with pytest.raises(RunError, match="contains files, but no sweep"):
        sweep(tiny, folder, tmp_path / "other", SPACE, 1)


def test_failure_of_every_trial_is_an_error(trainer, tiny, folder, tmp_path):
    space = {"warmup_epochs": {"low": 3, "high": 5}}
    with pytest.raises(RunError, match="every trial failed, as warmup_epochs="):
        sweep(tiny, folder, tmp_path / "s", space, 2)
    assert trainer.trained == []


def test_command_shows_the_trials(trainer, tiny, folder, tmp_path, call):
    (tmp_path / "tiny.json").write_text(json.dumps(tiny.to_dict()))
    (tmp_path / "space.yaml").write_text(json.dumps(SPACE))
    words = ["sweep", folder, "s", "--recipe", "tiny.json", "--trials", 4]
    optuna.logging.set_verbosity(optuna.logging.INFO)
    shown = call(*words, "--search", "space.yaml", cwd=tmp_path)
    assert shown.returncode == 0, shown.err
    lines = [line for line in shown.out.splitlines() if line.startswith("s/")]
    assert len(lines) == len(trainer.trained) + 1
    assert "best.keras is its best epoch" in lines[-1]
    assert shown.err.count("\n") == shown.err.count(": failed: ") > 0
    # the same space as text
    again = call(*words, "--search", json.dumps(SPACE), "--json", cwd=tmp_path)
    result = json.loads(again.out)
    assert result["monitor"] == "val_top1"
    assert len(result["trials"]) == 4
    other = call(*words, "--search", "space.yaml", "--seed", 1, cwd=tmp_path)
    assert other.returncode == 1
    assert "seed is 0 there and 1 here" in other.err
    assert other.err.count("\n") == 1


def test_command_refuses_in_one_line(tiny, folder, tmp_path, call):
    (tmp_path / "tiny.json").write_text(json.dumps(tiny.to_dict()))
    words = ["sweep", folder, "s", "--recipe", "tiny.json", "--search"]
    for search, says in {
        "none.yaml": "search='none.yaml': is neither YAML nor a readable file",
        "{a: [": "search='{a: [': is neither YAML nor a readable file",
        "7": "space=7: must map fields",
        "{base_rate: {low: 2, high: 1}}": "low must be less than high",
    }.items():
        done = call(*words, search, "--trials", 2, cwd=tmp_path)
        assert done.returncode == 1
        assert says in done.err
        assert done.err.count("\n") == 1
    assert call(*words, "{}", "--trials", 0, cwd=tmp_path).returncode == 2
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.json"]


def test_interrupted_command_exits_with_75(trainer, tiny, folder, tmp_path, call):
    (tmp_path / "tiny.json").write_text(json.dumps(tiny.to_dict()))
    words = ["sweep", folder, "s", "--recipe", "tiny.json", "--trials", 3]
    words += ["--search", "{base_rate: {low: 0.1, high: 0.5}}"]
    trainer.ends_at = 2
    done = call(*words, cwd=tmp_path)
    assert done.returncode == 75
    assert done.err == "keras-resnet: run the same command to resume\n"
    assert call(*words, cwd=tmp_path).returncode == 0
    assert trainer.trained == ["0000", "0001", "0001", "0002"]


@pytest.mark.slow
def test_real_trials_resume_to_the_same_result(tiny, folder, tmp_path):
    """Three trials of two epochs; the second is stopped in its first epoch."""
    from keras_resnet.backend import keras

    recipe = tiny.replace(epochs=2, warmup_epochs=0.0)
    space = {"base_rate": {"low": 0.1, "high": 2, "log": True}}

    class Signal(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                signal.raise_signal(signal.SIGTERM)

    def stopping(run, trial):
        bar = Signal() if run.name == "0001" else keras.callbacks.Callback()
        return contextlib.nullcontext(bar)

    with pytest.raises(Interrupted):
        sweep(recipe, folder, tmp_path / "parts", space, 3, "tpe", stopping)
    assert (tmp_path / "parts/0001" / layout.RECIPE).is_file()
    parts = sweep(recipe, folder, tmp_path / "parts", space, 3)
    assert {row["failed"] for row in parts} == {""}
    whole = of(sweep(recipe, folder, tmp_path / "whole", space, 2))
    assert whole == {name: of(parts)[name] for name in whole}
    for name in whole:
        ours, theirs = (
            (tmp_path / place / name / layout.HISTORY).read_text()
            for place in ("parts", "whole")
        )
        assert ours == theirs
