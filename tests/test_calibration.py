"""A temperature makes probabilities as sure as they are right; answers stay."""

import json
import shutil

import numpy as np
import pytest

from keras_resnet import evaluate, train
from keras_resnet.errors import ModelError
from keras_resnet.evaluate.measures import Tally
from keras_resnet.export import open_any
from keras_resnet.opening import open_model
from keras_resnet.runs import layout


def entropy(logits, labels, temperature):
    scaled = np.float64(logits) / temperature
    scaled -= scaled.max(1, keepdims=True)
    odds = np.exp(scaled)
    shares = odds[np.arange(len(labels)), labels] / odds.sum(1)
    return -np.log(shares).mean()


def test_temperature_has_the_least_cross_entropy():
    drawn = np.random.default_rng(0)
    logits = drawn.normal(0, 3, (400, 7))
    labels = np.where(drawn.random(400) < 0.6, logits.argmax(1), drawn.integers(7))
    found = evaluate.find_temperature(logits, labels)
    grid = np.geomspace(0.05, 20, 4001)
    best = grid[np.argmin([entropy(logits, labels, it) for it in grid])]
    assert found == pytest.approx(best, rel=2e-3)
    assert entropy(logits, labels, found) <= entropy(logits, labels, best) + 1e-12
    # twice as sure, twice as hot
    assert evaluate.find_temperature(2 * logits, labels) == pytest.approx(2 * found)


def test_temperature_stays_within_its_limits():
    sure = np.eye(3)
    assert evaluate.find_temperature(sure, np.arange(3)) == pytest.approx(0.05)
    wrong = evaluate.find_temperature(sure, np.array([1, 2, 0]))
    assert wrong == pytest.approx(20)


@pytest.mark.slow
def test_command_writes_a_model_that_is_better_calibrated(
    trained, folder, tmp_path, call
):
    run = tmp_path / "run"
    shutil.copytree(trained[0], run)
    done = call("calibrate", run, folder, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.err
    result = json.loads(done.out)
    assert result["after"]["loss"] <= result["before"]["loss"]
    before, after = open_model(run), open_model(run / layout.CALIBRATED)
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    ours, theirs = (np.float64(it.predict_on_batch(images)) for it in (after, before))
    np.testing.assert_array_equal(ours.argmax(1), theirs.argmax(1))
    cooled = theirs ** (1 / result["temperature"])
    cooled /= cooled.sum(1, keepdims=True)
    np.testing.assert_allclose(ours, cooled, atol=1e-5)
    for model, name in ((before, "before"), (after, "after")):
        measured = evaluate.run(model, folder)
        assert measured["loss"] == pytest.approx(result[name]["loss"], abs=1e-5)
    assert "temperature" in call("calibrate", run, cwd=tmp_path).out


@pytest.mark.slow
def test_commands_use_the_calibrated_model_of_a_run(
    trained, folder, tmp_path, call, monkeypatch
):
    run = tmp_path / "run"
    shutil.copytree(trained[0], run)
    commands = {
        "evaluate": (folder,),
        "predict": (folder / "val" / "red" / "000.png",),
        "export": (tmp_path / "out",),
    }
    for command, rest in commands.items():
        for model, words in (
            (run, "run: has no calibrated.keras; write it by `keras-resnet calibrate"),
            (run / layout.MODEL, "model.keras: no directory of a trained run"),
            ("resnet18d", "resnet18d: no directory of a trained run"),
        ):
            done = call(command, model, *rest, "--calibrated", cwd=tmp_path)
            assert (done.returncode, done.out) == (1, "")
            assert len(done.err.splitlines()) == 1
            assert words in done.err
    other = open_model(run)
    head = other.get_layer("head")
    head.set_weights([weight / 3 for weight in head.get_weights()])
    evaluate.write_calibrated(other, run)
    before = sorted(run.iterdir())
    for command in ("evaluate", "predict"):
        ours, theirs = (
            call(command, *words, *commands[command], "--json", cwd=tmp_path).out
            for words in ([run, "--calibrated"], [run / layout.CALIBRATED])
        )
        assert ours == theirs
        assert json.loads(ours)
    assert sorted(run.iterdir()) == before  # no metrics, which are of model.keras
    assert (
        ours != call("predict", run, *commands["predict"], "--json", cwd=tmp_path).out
    )

    def opened(name):
        raise ModelError(f"opened {name}")

    monkeypatch.setattr("keras_resnet.opening.open_model", opened)
    done = call("export", run, tmp_path / "out", "--calibrated", cwd=tmp_path)
    assert f"opened {run / layout.CALIBRATED}" in done.err
    probed = call("evaluate", run, folder, "--probe", "--calibrated", cwd=tmp_path)
    assert probed.returncode == 2


@pytest.mark.slow
def test_longer_training_removes_the_calibrated_model(folder, tiny, tmp_path):
    recipe = tiny.replace(epochs=1, warmup_epochs=0.0)
    train.fit(recipe, folder, tmp_path / "run")
    calibrated = tmp_path / "run" / layout.CALIBRATED
    shutil.copy(tmp_path / "run" / layout.MODEL, calibrated)
    train.fit(recipe, folder, tmp_path / "run")  # which trains nothing
    assert calibrated.is_file()
    train.fit(recipe.replace(epochs=2), folder, tmp_path / "run")
    assert not calibrated.exists()


@pytest.mark.slow
def test_exported_model_is_not_calibrated(exported, folder):
    with pytest.raises(ModelError, match="is exported; calibrate the model"):
        evaluate.calibrate(open_any(exported), folder)


def test_measures_are_those_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    drawn = np.random.default_rng(0)
    truth = drawn.integers(0, 4, 300)  # of the fifth class there is no image
    # rounded, so that some are equal
    probabilities = drawn.dirichlet(np.ones(5), 300).round(2)
    tally = Tally(5)
    tally.add(probabilities, truth)
    result = tally.result("abcde")
    said = probabilities.argmax(1)
    options = {"average": "macro", "labels": range(5), "zero_division": 0}
    assert result["macro_f1"] == pytest.approx(metrics.f1_score(truth, said, **options))
    balanced = np.mean([np.mean(said[truth == it] == it) for it in range(4)])
    assert result["balanced_accuracy"] == pytest.approx(balanced)
    options = {**options, "average": None}
    precision = metrics.precision_score(truth, said, **options)
    assert [*result["precision"].values()] == pytest.approx(precision)
    each = [
        metrics.average_precision_score(truth == it, probabilities[:, it])
        for it in range(4)
    ]
    *found, absent = result["average_precision"].values()
    assert found == pytest.approx(each)
    assert absent is None
    assert result["mean_average_precision"] == pytest.approx(np.mean(each))
