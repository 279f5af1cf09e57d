"""Boxes and masks go the way of labels: data, run, evaluation, prediction, export."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import runs
import tensorflow as tf
from annotated import NAMES, write_boxes, write_masks
from PIL import Image

from keras_resnet import RECIPES, data, evaluate, report, train, transfer
from keras_resnet.data.transforms import letterbox
from keras_resnet.errors import DataError, ModelError, RecipeError
from keras_resnet.evaluate.finding import find_each
from keras_resnet.export.savedmodel import SavedModel
from keras_resnet.info import Protocol
from keras_resnet.opening import open_model
from keras_resnet.runs import layout

pytest.importorskip("keras_hub")
pytest.importorskip("pycocotools")

DETECT = RECIPES["transfer"].replace(
    model="resnet18d",
    overrides={"width": 8, "depths": [1, 1, 1, 1]},
    weights="",
    stage_rates=(),
    freeze_statistics=False,
    train_size=64,
    test_size=64,
    batch_size=4,
    epochs=2,
    warmup_epochs=0.0,
    precision="float32",
    ema=0.5,
)
SEGMENT = DETECT.replace(task="segment")
WRITERS = {"detect": write_boxes, "segment": write_masks}
FOUND = {"detect": ("map", "map50"), "segment": ("mean_iou", "pixel_accuracy")}


@pytest.fixture(
    scope="module",
    params=[pytest.param(it, marks=pytest.mark.slow) for it in (DETECT, SEGMENT)],
    ids=["detect", "segment"],
)
def done(request, tmp_path_factory):
    """A finished run of a task, with its recipe and data."""
    recipe, root = request.param, tmp_path_factory.mktemp(request.param.task)
    folder = str(WRITERS[recipe.task](root / "data"))
    train.fit(recipe, folder, root / "run")
    return SimpleNamespace(recipe=recipe, data=folder, run=root / "run")


def test_run_has_its_files_and_its_measures(done):
    names = {path.name for path in done.run.iterdir()}
    assert {layout.MODEL, layout.BEST, layout.AVERAGE, layout.CURVES} <= names
    rows = runs.history(done.run)
    assert len(rows) == 2
    for name in FOUND[done.recipe.task]:
        assert 0 <= rows[-1][f"val_{name}"] <= 1
    assert json.loads((done.run / layout.DATA).read_text())["counts"]
    model = open_model(done.run)
    assert model.info.task == done.recipe.task
    measured = evaluate.run(model, done.data)
    for name in FOUND[done.recipe.task]:
        assert measured[name] == pytest.approx(rows[-1][f"val_{name}"], abs=1e-6)
    assert measured["examples"] == 4


@pytest.mark.slow
def test_report_has_the_measures_and_no_images(done, tmp_path):
    (found,) = report.write(done.run, out=tmp_path / "report.html")["runs"]
    measured = evaluate.run(open_model(done.run), done.data)
    page = (tmp_path / "report.html").read_text()
    for name in FOUND[done.recipe.task]:
        assert found[name] == pytest.approx(measured[name], abs=1e-6)
        assert f"<dd>{found[name]:.2%}</dd>" in page
    assert "<img" not in page
    assert all(name in page for name in NAMES)


@pytest.mark.slow
def test_stopped_run_resumes_to_the_same_bits(done, tmp_path):
    run, moment = tmp_path / "run", ("batch begin", 1, 0)
    place = runs.stop(done.data, run, moment, recipe=done.recipe)
    assert (place.epoch, place.batch) == (1, 1)
    train.fit(done.recipe, done.data, run)
    ours, theirs = runs.final(run), runs.final(done.run)
    assert runs.differing(ours, theirs) == []


@pytest.mark.slow
def test_signal_while_measuring_loses_nothing(done, tmp_path, monkeypatch):
    from keras_resnet.train import loop

    run, measure = tmp_path / "run", loop.measure

    def stopped(model, source, split, size, progress):
        signal.raise_signal(signal.SIGTERM)
        return measure(model, source, split, size, progress)

    monkeypatch.setattr(loop, "measure", stopped)
    with pytest.raises(train.Interrupted):
        train.fit(done.recipe, done.data, run)
    monkeypatch.undo()
    train.fit(done.recipe, done.data, run)
    assert runs.differing(runs.final(run), runs.final(done.run)) == []


@pytest.mark.slow
def test_export_answers_as_predict_does(done, tmp_path, call):
    out = call("export", done.run, tmp_path / "served", cwd=tmp_path)
    assert out.returncode == 0, out.err
    pictures = [f"{done.data}/{name}" for name in _pictures(done.data)]
    wide = tmp_path / "wide.png"
    with Image.open(pictures[0]) as image:
        image.resize((150, 70)).save(wide)
    files = [*pictures, wide, tmp_path / "served" / "models.config"]
    served = SavedModel(tmp_path / "served" / "1").run(
        "serving_bytes", image_bytes=[path.read_bytes() for path in map(Path, files)]
    )
    assert served["ok"].tolist() == [True] * (len(files) - 1) + [False]
    model = open_model(done.run)
    for number, (path, found) in enumerate(find_each(model, files[:-1])):
        assert path == str(files[number])
        if done.recipe.task == "detect":
            count = len(found["labels"])
            assert (served["labels"][number] >= 0).sum() == count
            boxes = served["boxes"][number][:count]
            np.testing.assert_allclose(boxes, found["boxes"], atol=1e-3)
            np.testing.assert_array_equal(
                served["classes"][number][:count],
                [NAMES[label].encode() for label in found["labels"]],
            )
            continue
        with Image.open(path) as image:
            width, height = image.size
        assert found["mask"].shape == (height, width)
        inner = served["size"][number]
        mask = served["mask"][number][: inner[0], : inner[1]]
        # at two scales, the classes differ along edges alone
        nearest = tf.image.resize(mask[..., None], (height, width), "nearest")
        assert np.mean(nearest[..., 0] == found["mask"]) > 0.9
    again = call("evaluate", tmp_path / "served", done.data, "--json", cwd=tmp_path)
    ours, theirs = json.loads(again.out), evaluate.run(model, done.data)
    for name in FOUND[done.recipe.task]:
        assert ours[name] == pytest.approx(theirs[name], abs=1e-6)


def _pictures(folder):
    root = Path(folder)
    return sorted(
        str(path.relative_to(root))
        for path in root.glob("val/**/*.png")
        if "masks" not in path.parts
    )


def test_command_line_predicts_and_draws(done, tmp_path, call):
    pictures = [f"{done.data}/{name}" for name in _pictures(done.data)]
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    ours = ["predict", done.run, *pictures, bad, "--threshold", "0.05", "--json"]
    result = call(*ours, "--out", "found", cwd=tmp_path)
    assert result.returncode == 1
    assert "1 of 5 files cannot be read" in result.err
    rows = json.loads(result.out)
    assert json.loads((tmp_path / "found" / "predictions.json").read_text()) == rows
    assert "problem" in rows[-1]
    drawn = {path.name for path in (tmp_path / "found").glob("*.png")}
    assert {f"{number:05d}-{number - 1}.png" for number in range(1, 5)} <= drawn
    for row in rows[:-1]:
        if done.recipe.task == "detect":
            assert 0.05 <= row["score"] <= 1
            assert row["category"] == NAMES[row["category_id"] - 1]
            assert all(0 <= side <= 128 for side in row["bbox"])
        else:
            assert sum(row["classes"].values()) == pytest.approx(1)
    if done.recipe.task == "segment":
        with Image.open(tmp_path / "found" / "00001-0.mask.png") as mask:
            assert mask.mode == "P"
            assert np.asarray(mask).max() < 4


@pytest.mark.slow
def test_commands_show_boxes_and_masks(done, tmp_path, call):
    task = done.recipe.task
    options = ["--recipe", "transfer", "--task", task, "--train-size", 64]
    options += ["--test-size", 64, "--output", "seen.png"]
    shown = call("preview", done.data, *options, "--json", cwd=tmp_path)
    assert json.loads(shown.out) == {"path": "seen.png", "train": 8, "val": 4}
    with Image.open(tmp_path / "seen.png") as image:
        assert image.size[0] > 500
    checked = call("validate", done.data, "--task", task, "--json", cwd=tmp_path)
    assert checked.returncode == 0
    assert json.loads(checked.out)["counts"]["val"]["pictures"] == 4
    state = call("status", done.run, "--json", cwd=tmp_path)
    best = json.loads(state.out)["best"]
    assert f"val_{FOUND[task][0]}" in best
    table = call("evaluate", done.run, done.data, cwd=tmp_path)
    assert "images" in table.out
    assert (done.run / layout.GRID).is_file()


@pytest.mark.slow
def test_classifiers_things_are_refused(done, tmp_path, call):
    refused = {
        ("evaluate", done.run, done.data, "--ten-crop"): "are for classifiers",
        ("predict", done.run, "x.png", "--csv"): "of a classifier alone",
        ("export", done.run, "x", "--format", "onnx"): "is exported as savedmodel",
        ("embed", done.run, done.data, "--out", "x.npz"): "is for task=",
    }
    for words, says in refused.items():
        result = call(*words, cwd=tmp_path)
        assert result.returncode in (1, 2)
        assert says in result.err
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"mixup": 0.2}, "mixup=0.2: for classification alone"),
        ({"label_smoothing": 0.1}, "label_smoothing=0.1: for classification alone"),
        ({"monitor": "val_top1", "task": "segment"}, None),
        ({"monitor": "val_mean_iou"}, "monitor='val_mean_iou', task='detect': must be"),
        ({"train_size": 100}, "train_size=100, test_size=64: must be multiples of 32"),
        ({"test_size": 128}, "train_size=64, test_size=128: must be equal"),
        ({"scale_jitter": [2, 1]}, "scale_jitter=.*: must be empty, or the smallest"),
        ({"task": "classify"}, "scale_jitter=.*: for detection and segmentation"),
        ({"repeats": 2}, "repeats=2: for classification alone"),
    ],
)
def test_fields_of_tasks_are_checked(fields, says):
    if says is None:  # the default, for which each task has its own
        assert DETECT.replace(**fields).monitor == "val_mean_iou"
        return
    with pytest.raises(RecipeError, match=says):
        DETECT.replace(**fields)


def test_each_task_has_its_monitor():
    assert RECIPES["transfer"].monitor == "val_map"
    assert RECIPES["transfer"].replace(task="segment").monitor == "val_mean_iou"
    recipe = RECIPES["transfer"].replace(ema=0.9, monitor="val_ema_map")
    assert recipe.replace(epochs=3).monitor == "val_ema_map"
    with pytest.raises(RecipeError, match=r"monitor='val_ema_map', ema=0\.0"):
        recipe.replace(ema=0.0)


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        (DETECT.replace(model="applications:MobileNet"), "must be a name of"),
        (DETECT.replace(overrides={"output_stride": 16}), "output_stride must be one"),
        (SEGMENT.replace(overrides={"output_stride": 4}), "output_stride must be one"),
    ],
)
def test_net_must_fit_its_task(recipe, says, tmp_path):
    folder = WRITERS[recipe.task](tmp_path / "data")
    with pytest.raises(RecipeError, match=says):
        train.fit(recipe, folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_data_must_be_of_the_task(tmp_path):
    with pytest.raises(DataError, match="needs a folder of pictures, not arrays"):
        train.fit(DETECT, (np.zeros((4, 8, 8, 3), "uint8"), [0, 1, 0, 1]), tmp_path)
    source = data.open_source(write_masks(tmp_path / "masks"), task="segment")
    with pytest.raises(DataError, match="was opened for task='segment', not 'detect'"):
        train.fit(DETECT, source, tmp_path / "run")


def extent(image, color):
    """(left, top, right, bottom) of the pixels of a color, or None."""
    near = np.abs(image.astype(int) - color).max(-1) < 40
    rows, columns = np.flatnonzero(near.any(1)), np.flatnonzero(near.any(0))
    if not len(rows):
        return None
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 10])
def test_boxes_stay_on_what_they_show(times):
    """Through every scale, place and mirror image, and every scale of decoding."""
    image = np.full((60 * times, 100 * times, 3), 20, np.uint8)
    image[20 * times : 50 * times, 30 * times : 70 * times] = (250, 20, 20)
    target = {
        "boxes": tf.constant([[30.0, 20, 70, 50], [0, 0, 0, 0]]) * times,
        "labels": tf.constant([0.0, -1.0]),
    }
    content = tf.io.encode_png(image) if times == 1 else tf.io.encode_jpeg(image)
    sizes = {"train_size": 96, "test_size": 96, "scale_jitter": (0.5, 2.0)}
    recipe = DETECT.replace(**sizes, scaled_decode=times > 1)
    seen = 0
    for seed in range(60):
        square, moved = letterbox.train_boxes(content, target, recipe, [0, seed])
        assert square.shape == (96, 96, 3)
        assert moved["labels"][1] == -1
        place = extent(square.numpy(), (250, 20, 20))
        if moved["labels"][0] == -1:
            area = 0 if place is None else (place[2] - place[0]) * (place[3] - place[1])
            assert area < 0.2 * 40 * 30 * 4
            continue
        seen += 1
        np.testing.assert_allclose(moved["boxes"][0], place, atol=1.6)
        mask = np.uint8(3 * (image[..., :1] > 200))
        other, moved_mask = letterbox.train_mask(content, mask, recipe, [0, seed])
        np.testing.assert_array_equal(other, square)
        red = extent(np.where(moved_mask[..., None] == 3, 250, 0), (250, 250, 250))
        np.testing.assert_allclose(red, place, atol=1.6)
        assert set(np.unique(moved_mask)) <= {0, 3, 255}
    assert seen > 40


def test_evaluation_may_decode_smaller():
    photo = np.random.default_rng(0).integers(0, 256, (300, 500, 3), np.uint8)
    jpeg = tf.io.encode_jpeg(photo)
    protocol = Protocol(64, scaled_decode=True)
    square, inner, size = data.load_square(jpeg, protocol)
    smaller = tf.io.decode_jpeg(jpeg, 3, 4, dct_method="INTEGER_ACCURATE")
    expected = letterbox.letterbox(smaller, 64, protocol.interpolation)[0]
    np.testing.assert_array_equal(square, expected)
    assert (inner.numpy().tolist(), size.numpy().tolist()) == ([38, 64], [300, 500])


def test_letterbox_keeps_the_aspect_ratio():
    image = np.random.default_rng(0).integers(0, 256, (30, 60, 3), np.uint8)
    square, size = letterbox.letterbox(tf.constant(image), 128)
    assert size.numpy().tolist() == [64, 128]
    resized = Image.fromarray(image).resize((128, 64), Image.BILINEAR)
    np.testing.assert_array_equal(square[:64], resized)
    np.testing.assert_array_equal(
        square[64:], np.broadcast_to(letterbox.FILL, (64, 128, 3))
    )


@pytest.mark.slow
@pytest.mark.parametrize("task", WRITERS)
def test_batches_are_a_function_of_their_place(task, tmp_path):
    source = data.open_source(WRITERS[task](tmp_path / "data"), task=task)
    recipe = (DETECT if task == "detect" else SEGMENT).replace(lighting=0.1)
    every = [*data.train_batches(source, recipe).take(4).as_numpy_iterator()]
    (later,) = data.train_batches(source, recipe, 1, 1).take(1).as_numpy_iterator()
    for ours, theirs in zip(tf.nest.flatten(later), tf.nest.flatten(every[3])):
        np.testing.assert_array_equal(ours, theirs)
    assert every[0][0].dtype == np.uint8
    assert every[0][0].shape == (4, 64, 64, 3)
    assert np.any(every[0][0] != every[2][0])


def test_mean_iou_is_kerass():
    drawn = np.random.default_rng(0)
    truth = [drawn.integers(0, 4, (9, number + 3), np.uint8) for number in range(5)]
    found = [np.where(drawn.random(it.shape) < 0.6, it, 1).astype("u1") for it in truth]
    truth[2][:3] = 255
    result = transfer.mean_iou(zip(truth, found), "abcd")
    metric = keras.metrics.MeanIoU(4, ignore_class=255)
    for one, two in zip(truth, found):
        metric.update_state(one, two)
    assert result["mean_iou"] == pytest.approx(float(metric.result()), abs=1e-6)
    pairs = [(one[one < 255], two[one < 255]) for one, two in zip(truth, found)]
    right = np.concatenate([one == two for one, two in pairs])
    assert result["pixel_accuracy"] == pytest.approx(right.mean())
    assert result["examples"] == 5
    nothing = transfer.mean_iou([(np.full((2, 2), 255), np.zeros((2, 2), int))], "ab")
    assert nothing["mean_iou"] is None


def test_boxes_and_masks_are_drawn():
    from keras_resnet.data.annotated.marking import mark

    image = np.full((40, 50, 3), 128, np.uint8)
    boxes = {"boxes": [[5, 15, 30, 35], [0, 0, 0, 0]], "labels": [1, -1]}
    drawn = mark(image, boxes, ["a", "\u4e16"])
    changed = np.any(drawn != image, -1)
    assert changed[15, 5:30].all()
    assert changed[34, 5:30].all()
    assert not changed[36:].any()
    mask = np.zeros((40, 50), np.uint8)
    mask[10:20], mask[30:] = 1, 255
    drawn = mark(image, {"mask": mask}, ["none", "one"])
    assert np.any(drawn != image, -1).sum() == 500


def test_half_precision_gives_whole_boxes():
    """In float16 the pixels of a large image could not be told apart."""
    info = open_info("detect", "mixed_bfloat16")
    model = transfer.assemble_transfer(info)
    images = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3)).astype("f4")
    outputs = model.predict_on_batch(images)
    assert outputs["boxes"].dtype == np.float32
    assert model.box_head.compute_dtype == "bfloat16"
    segmenter = transfer.assemble_transfer(open_info("segment", "mixed_bfloat16"))
    assert segmenter.predict_on_batch(images).dtype == np.float32


def open_info(task, policy):
    from keras_resnet.config import VARIANTS
    from keras_resnet.info import ModelInfo, Protocol

    config = VARIANTS["resnet18d"].replace(width=8, depths=(1, 1, 1, 1))
    if task == "segment":
        config = config.replace(output_stride=16)
    return ModelInfo(
        "resnet18d",
        config,
        classes=3,
        classifier_activation=None,
        dtype_policy=policy,
        protocol=Protocol(64),
        task=task,
    )


def test_foreign_file_runs_no_code(tmp_path):
    """A detector's file is read as data, like those of nets."""
    model = transfer.assemble_transfer(open_info("detect", "float32"))
    model.save(tmp_path / "own.keras")
    again = open_model(tmp_path / "own.keras")
    for one, two in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(one, two)
    content = (tmp_path / "own.keras").read_bytes()
    (tmp_path / "cut.keras").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match=r"cut\.keras"):
        open_model(tmp_path / "cut.keras")


def test_ten_crops_are_for_classifiers(tmp_path, call):
    transfer.assemble_transfer(open_info("detect", "float32")).save(
        tmp_path / "d.keras"
    )
    done = call("predict", "d.keras", "a.png", "--ten-crop", cwd=tmp_path)
    assert done.returncode == 2
    assert "--ten-crop, --ray: of a classifier alone; d.keras is for" in done.err


@pytest.mark.slow
@pytest.mark.parametrize("task", WRITERS)
def test_jax_trains_too(task, tmp_path):
    folder = WRITERS[task](tmp_path / "data")
    program = Path(sys.executable).with_name("keras-resnet")
    words = [program, "train", folder, "run"]
    words += ["--recipe", "transfer", "--task", task, "--model", "resnet18d"]
    words += ["--overrides", "{width: 8, depths: [1, 1, 1, 1]}", "--weights", ""]
    words += ["--stage-rates", "[]", "--freeze-statistics", "false", "--json"]
    words += ["--train-size", 64, "--test-size", 64, "--batch-size", 4]
    words += ["--epochs", 2, "--ema", 0.5, "--precision", "float32"]
    result = subprocess.run(
        [str(word) for word in words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
    )
    assert result.returncode == 0, result.stderr[-2000:]
    measured = json.loads(result.stdout.splitlines()[-1])
    assert 0 <= measured[FOUND[task][0]] <= 1
    assert FOUND[task][0] in measured["ema"]
