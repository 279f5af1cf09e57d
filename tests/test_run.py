"""From recipe and data to a run directory, its metrics, its predictions, its export."""

import json
import zipfile

import numpy as np
import pytest
from runs import Stop, assert_same_variables

import keras_resnet
from keras_resnet import data, demo, evaluate, export, train
from keras_resnet.backend import keras
from keras_resnet.errors import DataError, ModelError, RunError
from keras_resnet.files import write_whole
from keras_resnet.opening import open_model
from keras_resnet.recipe import Recipe
from keras_resnet.runs import layout

FILES = {
    "recipe.json",
    "data.json",
    "history.json",
    "log.csv",
    "tensorboard",
    "checkpoints",
    "curves.png",
    "model.keras",
    "best.keras",
    "finished.json",
}


@pytest.mark.addons
def test_run_directory_holds_its_files_and_nothing_half_written(trained):
    run, _ = trained
    assert {path.name for path in run.iterdir()} == FILES
    history = json.loads((run / "history.json").read_text())
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert history[-1]["loss"] < history[0]["loss"]


@pytest.mark.addons
def test_trained_model_carries_classes_protocol_and_softmax(trained, tiny):
    run, model = trained
    reloaded = open_model(run)
    assert reloaded.info.class_names == ("blue", "green", "red")
    assert reloaded.info.protocol == tiny.protocol
    image = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    probabilities = reloaded.predict(image, verbose=0)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-6)
    np.testing.assert_array_equal(probabilities, model.predict(image, verbose=0))


@pytest.mark.parametrize(
    "where", [pytest.param((0, 2), marks=pytest.mark.slow), (2, 1)]
)
def test_interrupted_run_resumes_to_the_very_same_result(
    where, trained, folder, tiny, tmp_path
):
    with pytest.raises(KeyboardInterrupt):
        train.fit(tiny, folder, tmp_path / "run", Stop(*where))
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left == {"recipe.json", "data.json", "tensorboard"} | (
        {"history.json", "checkpoints", "log.csv"} if where[0] else set()
    )
    resumed = train.fit(tiny, folder, tmp_path / "run")
    assert_same_variables(resumed, trained[1])
    ours, theirs = tmp_path / "run" / "history.json", trained[0] / "history.json"
    assert ours.read_text() == theirs.read_text()


@pytest.mark.slow
def test_another_seed_gives_another_result(trained, folder, tiny, tmp_path):
    train.fit(tiny.replace(seed=1), folder, tmp_path / "run")
    for name in (layout.MODEL, layout.BEST, layout.HISTORY):
        ours, theirs = (
            (run / name).read_bytes() for run in (tmp_path / "run", trained[0])
        )
        assert ours != theirs


def test_finished_run_is_returned_not_trained_again(trained, folder, tiny):
    run, model = trained
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
    again = train.fit(tiny, folder, run, Stop(0, 0))
    assert before == {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
    assert_same_variables(again, model)


def test_run_of_another_recipe_or_other_data_is_refused(
    trained, folder, own_folder, tiny
):
    run, _ = trained
    with pytest.raises(RunError, match=r"tiny: belongs.*epochs is 3 there and 2"):
        train.fit(tiny.replace(epochs=2), folder, run)
    with pytest.raises(RunError, match=r"another run: class_names|data_hash"):
        train.fit(tiny, own_folder, run)


@pytest.mark.addons
def test_recipe_file_of_a_run_reproduces_it(trained, tiny):
    assert Recipe.read(trained[0] / "recipe.json") == tiny


def test_data_may_move(trained, folder, tiny, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert train.is_finished(tiny, folder.name, trained[0])


def test_foreign_directory_is_left_alone(folder, tiny, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="contains files, but no run"):
        train.fit(tiny, folder, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"batch_size": 64}, "batch_size=64"),
        ({"model": "resnet51d"}, "model='resnet51d'"),
        ({"overrides": {"depth": 3}}, "unknown override depth"),
    ],
)
def test_impossible_run_writes_nothing(fields, words, folder, tiny, tmp_path):
    with pytest.raises((ValueError, TypeError), match=words):
        train.fit(tiny.replace(**fields), folder, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_damaged_training_picture_is_named(own_folder, tiny, tmp_path):
    victim = own_folder / "train" / "red" / "002.jpg"
    victim.write_bytes(victim.read_bytes()[:200])
    with pytest.raises(DataError, match=r"red/002.jpg: cannot be read"):
        train.fit(tiny, own_folder, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.addons
@pytest.mark.parametrize(
    "precision",
    [pytest.param("mixed_bfloat16", marks=pytest.mark.slow), "mixed_float16"],
)
def test_half_precision_trains_and_answers_in_float32(
    precision, folder, tiny, tmp_path
):
    recipe = tiny.replace(precision=precision, epochs=2)
    model = train.fit(recipe, folder, tmp_path / "run")
    block = model.get_layer("stage2_block0")
    assert block.compute_dtype == precision.removeprefix("mixed_")
    assert model.output.dtype == "float32"
    assert evaluate.run(model, folder)["examples"] == 12
    assert np.isfinite(np.concatenate([w.ravel() for w in model.get_weights()])).all()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nothing.keras", "nothing.keras: no such file"),
        ("resnet51d", "resnet51d: neither a run directory"),
        (".", "has no model.keras"),
    ],
)
def test_model_that_is_not_there_is_named(name, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=words):
        open_model(name)


def test_file_that_is_no_model_is_named(tmp_path):
    (tmp_path / "bad.keras").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(ModelError, match=r"bad\.keras: not a complete \.keras"):
        open_model(tmp_path / "bad.keras")
    other = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    other.save(tmp_path / "other.keras")
    with pytest.raises(ModelError, match="of a model of keras_resnet"):
        open_model(tmp_path / "other.keras")


@pytest.mark.parametrize(
    "lie",
    [
        {"depths": [10**9, 1, 1, 1]},
        {"width": 4096},
        {"depths": "many"},
        {"stem": "trojan"},
        {"extra": 1},
    ],
)
def test_lying_description_is_refused_before_memory_is_taken(lie, trained, tmp_path):
    path = tmp_path / "lying.keras"
    with (
        zipfile.ZipFile(trained[0] / "model.keras") as source,
        zipfile.ZipFile(path, "w") as target,
    ):
        for name in source.namelist():
            content = source.read(name)
            if name == "config.json":
                config = json.loads(content)
                config["config"]["info"]["config"].update(lie)
                content = json.dumps(config)
            target.writestr(name, content)
    with pytest.raises(ModelError, match=r"lying\.keras: does not describe a model"):
        open_model(path)


@pytest.mark.slow
def test_serving_difference_sees_a_difference(trained, folder, tmp_path):
    _, model = trained
    source = data.open_source(folder)
    right = export.save(model, tmp_path / "right")
    assert demo.serving_difference(model, source, right) <= demo.TOLERANCE
    spoiled = keras_resnet.model.rebuild(model)
    head = spoiled.get_layer("head")
    head.set_weights([head.kernel.numpy() * 1.01, head.bias.numpy()])
    wrong = export.save(spoiled, tmp_path / "wrong")
    assert demo.serving_difference(model, source, wrong) > demo.TOLERANCE


def test_interrupted_write_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "state"
    write_whole(path, "old")
    with pytest.raises(TypeError):
        write_whole(path, 3)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["state"]
