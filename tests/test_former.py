"""What commit 03d3bba wrote, before the modules were moved, is read and goes on.

Recorded in goldens/former: `half` and `whole`, runs of the recipe below on the arrays
of `resume_program.pictures`, the first stopped by SIGTERM at ("batch begin", 1, 1);
`records`, what `data.prepare` made of three classes; `answers.npz`, the whole run's
weights in the order of `model.weights`, and its probabilities of the validation arrays.
"""

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import COLOURS, write_picture
from resume_program import RECIPE

from keras_resnet import data as pictures
from keras_resnet import evaluate, open_model, train
from keras_resnet.errors import RunError
from keras_resnet.runs.status import status

FORMER = Path(__file__).parent / "goldens" / "former"
NET = {"width": 8, "depths": [1], "dropout": 0.2}


class Epochs(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.begun = []

    def on_train_batch_begin(self, batch, logs=None):
        self.begun.append(batch)


def test_models_answer_as_they_did(data):
    with np.load(FORMER / "answers.npz") as answers:
        for opened in (
            open_model(FORMER / "whole" / "model.keras"),
            open_model(FORMER / "whole"),
        ):
            probabilities = opened.predict(data["val"][0], verbose=0)
            np.testing.assert_allclose(
                probabilities, answers["probabilities"], atol=1e-5
            )
    by_keras = keras.saving.load_model(FORMER / "whole" / "best.keras")
    assert by_keras.info.class_names == ("0", "1", "2")
    rows = json.loads((FORMER / "whole" / "history.json").read_text())
    best = max(row["val_top1"] for row in rows)
    assert evaluate.run(by_keras, data)["top1"] == pytest.approx(best)


def test_finished_run_is_known_as_finished(data, tmp_path):
    run = shutil.copytree(FORMER / "whole", tmp_path / "run")
    recipe = RECIPE.replace(overrides=NET)
    assert train.is_finished(recipe, data, run)
    assert status(run)["recipe"] == "tiny"


@pytest.mark.slow
def test_run_that_was_stopped_goes_on_from_its_step(data, tmp_path):
    run = shutil.copytree(FORMER / "half", tmp_path / "run")
    assert status(run)["state"] == "stopped"
    epochs = Epochs()
    model = train.fit(RECIPE.replace(overrides=NET), data, run, callbacks=[epochs])
    assert epochs.begun == [2, 3, *range(4)]
    rows = json.loads((run / "history.json").read_text())
    theirs = json.loads((FORMER / "whole" / "history.json").read_text())
    assert rows[0] == theirs[0]
    assert [row["rate"] for row in rows] == [row["rate"] for row in theirs]
    # the first half was computed on another processor, to other last digits
    with np.load(FORMER / "answers.npz") as answers:
        for number, weight in enumerate(model.weights):
            expected = answers[f"weight{number:02d}"]
            np.testing.assert_allclose(weight, expected, atol=2e-3, err_msg=weight.path)


@pytest.mark.slow
def test_run_without_scaled_decode_goes_on_without_it(tiny, tmp_path):
    folder = tmp_path / "large"
    for number, (name, colour) in enumerate(COLOURS.items()):
        for index in range(4):
            split = "train" if index else "val"
            file = folder / split / name / f"{index}.jpg"
            write_picture(file, colour, 10 * number + index, (100, 120))
    recipe = tiny.replace(batch_size=4, epochs=2, warmup_epochs=0.0, min_area=0.8)
    former, run = recipe.replace(scaled_decode=False), tmp_path / "run"
    train.fit(former, folder, run)
    again = shutil.copytree(run, tmp_path / "again")
    fields = json.loads((run / "recipe.json").read_text())
    del fields["scaled_decode"]
    (run / "recipe.json").write_text(json.dumps(fields))
    with pytest.raises(RunError, match="scaled_decode is False there and True here"):
        train.is_finished(recipe, folder, again)
    assert train.is_finished(recipe, folder, run)
    longer = {"epochs": 4}
    ours = train.fit(recipe.replace(**longer), folder, run)
    theirs = train.fit(former.replace(**longer), folder, again)
    for a, b in zip(ours.weights, theirs.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert "scaled_decode" not in json.loads((run / "recipe.json").read_text())
    assert train.is_finished(recipe.replace(**longer), folder, run)
    other = train.fit(recipe.replace(**longer), folder, tmp_path / "other")
    assert not np.array_equal(other.weights[0], ours.weights[0])


def test_records_are_the_same_data_set():
    source = pictures.open_source(FORMER / "records")
    assert source.class_names == ("blue", "green", "red")
    assert (source.train.size, source.val.size) == (6, 3)
    images, labels = next(
        iter(pictures.eval_batches(source, RECIPE.protocol, "val", 3))
    )
    assert images.shape == (3, 32, 32, 3)
    assert labels.numpy().sum(0).tolist() == [1, 1, 1]
