"""Names are drawn as they are, and what cannot be drawn loses no trained model."""

import json
import os

import numpy as np
import pytest
import tensorflow as tf
from conftest import write_picture
from matplotlib.figure import Figure

from keras_resnet import data, drawing, evaluate, train
from keras_resnet.evaluate.figures import confusion_map
from keras_resnet.opening import open_model
from keras_resnet.runs import layout
from keras_resnet.train import finish
from keras_resnet.train.curves import rate_curve

NAMES = ("$0.1_$", "caf\udce9", "plain")  # the second a folder of a Latin-1 disk
PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A folder of classes, itself and they of odd names."""
    root = tmp_path_factory.mktemp("odd") / os.fsdecode(b"photos_\xe9_$1_$")
    for split, count in (("train", 3), ("val", 2)):
        for name in NAMES:
            for number in range(count):
                path = root / split / name / f"{number}.png"
                write_picture(path, (40, 80, 160), number)
    return root


def test_title_is_drawn_letter_by_letter():
    figure = Figure(layout="constrained")
    title = figure.suptitle("lr_$0.1_wd_$1e-4 \udce9")  # no formula, and no UTF-8
    axes = figure.add_subplot()
    axes.set_title("$" * 2)
    assert drawing.png(figure).startswith(PNG)
    assert title.get_text() == "lr_$0.1_wd_$1e-4 \\udce9"


@pytest.mark.slow
def test_run_of_odd_names_is_trained_and_drawn(odd, tiny, tmp_path, capsys):
    recipe = tiny.replace(name="lr_$0.1_wd_$1e-4", batch_size=3, epochs=2)
    run = tmp_path / os.fsdecode(b"run_\xe9")
    train.fit(recipe, odd, run)
    assert (run / layout.CURVES).read_bytes().startswith(PNG)
    model, path = open_model(run), run / "drawn.png"
    assert model.info.class_names == NAMES
    evaluate.picture_grid(model, odd, path)
    assert path.read_bytes().startswith(PNG)
    metrics = evaluate.run(model, odd)
    confusion_map(metrics, path)
    data.preview(odd, recipe, path)
    assert rate_curve(recipe).startswith(PNG)
    assert capsys.readouterr().err == ""
    (events,) = (run / layout.TENSORBOARD).iterdir()
    values = {}
    for record in tf.data.TFRecordDataset(os.fsencode(events)).as_numpy_iterator():
        event = tf.compat.v1.Event.FromString(record)
        values |= {(event.step, v.tag): v.simple_value for v in event.summary.value}
    rows = json.loads((run / layout.HISTORY).read_text())
    for row in rows:
        at = row["epoch"]
        assert values[at, "loss/train"] == pytest.approx(row["loss"])
        assert values[at, "top1/validation"] == pytest.approx(row["val_top1"])
        assert values[at, "rate/train"] == pytest.approx(row["rate"])


def test_folder_of_odd_names_is_prepared(odd, tmp_path):
    prepared = data.prepare(odd, tmp_path / os.fsdecode(b"records_\xe9"))
    assert prepared.class_names == NAMES
    assert (prepared.train.size, prepared.val.size) == (9, 6)
    labels = [int(label) for _, label in prepared.val.ordered()]
    assert sorted(labels) == [0, 0, 1, 1, 2, 2]
    (shard,) = (tmp_path / os.fsdecode(b"records_\xe9")).glob("val-*")
    content = shard.read_bytes()
    assert b"caf\xe9" in content  # the folder's own bytes
    assert b"$0.1_$" in content


@pytest.mark.slow
def test_curves_that_cannot_be_drawn_are_a_line_and_the_model_is_there(
    folder, tiny, tmp_path, monkeypatch, capsys
):
    def curves(title, history):
        raise ValueError("\n$0.1_wd_$\n^\nParseException")

    monkeypatch.setattr(finish, "curves", curves)
    run = tmp_path / "run"
    model = train.fit(tiny.replace(epochs=2), folder, run)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"{run / 'curves.png'}: cannot be drawn ($0.1_wd_$ ^ ParseException)"
    assert not (run / layout.CURVES).exists()
    for ours, kept in zip(model.weights, open_model(run).weights, strict=True):
        np.testing.assert_array_equal(ours, kept)
    assert train.is_finished(tiny.replace(epochs=2), folder, run)
