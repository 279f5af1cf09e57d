"""Measures are what loops by hand count, whatever the batches; and predictions."""

import csv
import dataclasses
import io
import json
import re
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import write_picture
from hostile_pictures import encoded

import keras_resnet
from keras_resnet import data, evaluate
from keras_resnet.cli import base, evaluating
from keras_resnet.errors import DataError, ModelError
from keras_resnet.evaluate import prediction
from keras_resnet.evaluate.figures import confusion_map
from keras_resnet.evaluate.measures import Tally, to_json, worst_classes
from keras_resnet.model import rebuild


def tallied(probabilities, truth, batch=3):
    tally = Tally(probabilities.shape[1])
    for start in range(0, len(truth), batch):
        part = slice(start, start + batch)
        tally.add(probabilities[part], truth[part])
    return tally.result([f"class {k}" for k in range(probabilities.shape[1])])


def drawn(dtype, count=200, classes=8, seed=0):
    """Probabilities of which half are multiples of 1/15: on borders, and often tied."""
    rng = np.random.default_rng(seed)
    smooth = rng.dirichlet(np.full(classes, 0.3), count // 2)
    grained = rng.multinomial(15, rng.dirichlet(np.full(classes, 0.3), count // 2)) / 15
    probabilities = rng.permutation(np.concatenate([smooth, grained])).astype(dtype)
    likely = [rng.choice(classes, p=p / p.sum()) for p in probabilities.astype(float)]
    return probabilities, np.where(rng.random(count) < 0.7, likely, 0)


def error_by_loop(probabilities, truth, bins=15):
    """1706.04599 equation 3 as it stands, with the bins (lower, upper] of its 2.2."""
    total = 0.0
    number = probabilities.dtype.type
    for m in range(1, bins + 1):
        inside = [
            (float(p.max()), p.argmax() == label)
            for p, label in zip(probabilities, truth)
            if number((m - 1) / bins) < p.max() <= number(m / bins)
        ]
        if inside:
            confidence, accuracy = np.mean(inside, axis=0)
            total += len(inside) / len(truth) * abs(accuracy - confidence)
    return total


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tally_is_that_of_loops_by_hand(dtype):
    probabilities, truth = drawn(dtype)
    ours = tallied(probabilities, truth)
    places = [
        np.argsort(-p, kind="stable").tolist().index(label)
        for p, label in zip(probabilities, truth)
    ]
    assert ours["top1"] == np.mean([place < 1 for place in places])
    assert ours["top5"] == np.mean([place < 5 for place in places])
    assert ours["examples"] == 200
    confusion = [[0] * 8 for _ in range(8)]
    for p, label in zip(probabilities, truth):
        confusion[label][p.argmax()] += 1
    assert ours["confusion"] == confusion
    assert ours["per_class"] == {
        f"class {k}": row[k] / sum(row) for k, row in enumerate(confusion)
    }
    expected = error_by_loop(probabilities, truth)
    assert ours["calibration_error"] == pytest.approx(expected, rel=1e-12)
    for batch in (1, 200):
        assert_close(tallied(probabilities, truth, batch), ours)


def test_ties_go_to_the_first_class_everywhere():
    probabilities = np.full((8, 8), 1 / 8, np.float32)
    ours = tallied(probabilities, np.arange(8))
    assert np.asarray(ours["confusion"])[:, 0].tolist() == [1] * 8
    assert ours["top1"] == 1 / 8
    assert ours["top5"] == 5 / 8
    assert list(ours["per_class"].values()) == [1.0] + [0.0] * 7


def test_share_of_the_diagonal_is_top1_exactly():
    for seed in range(20):
        ours = tallied(*drawn(np.float32, count=2 * (7 + seed), seed=seed))
        assert np.trace(ours["confusion"]) / ours["examples"] == ours["top1"]


def of_two_classes(*groups):
    """The error of (confidence, pictures, those of them that are right) groups."""
    probabilities = [[c, 1 - c] for c, count, _ in groups for _ in range(count)]
    truth = [int(i >= right) for _, count, right in groups for i in range(count)]
    return tallied(np.array(probabilities), np.array(truth))["calibration_error"]


def test_calibration_error_of_known_cases():
    assert of_two_classes((0.7, 10, 7), (0.9, 20, 18)) == pytest.approx(0, abs=1e-12)
    assert of_two_classes((0.9, 10, 4)) == pytest.approx(0.5)
    assert of_two_classes((1.0, 4, 4)) == 0
    assert of_two_classes((1.0, 4, 0)) == 1
    # confident by 0.2 too much, and by 0.2 too little: they do not cancel
    assert of_two_classes((0.9, 10, 7), (0.6, 10, 8)) == pytest.approx(0.2)
    # within one bin they do
    assert of_two_classes((0.72, 5, 5), (0.72, 5, 2)) == pytest.approx(0.02)


def test_a_border_belongs_to_the_bin_below_it():
    # of one bin: |1 right - sum of confidence| / 2; of two, each gap by itself
    border = 9 / 15
    assert of_two_classes((border, 1, 1), (0.55, 1, 0)) == pytest.approx(0.075)
    assert of_two_classes((border, 1, 1), (0.65, 1, 0)) == pytest.approx(0.525)
    assert of_two_classes((1.0, 1, 0), (0.95, 1, 1)) == pytest.approx(0.475)


def test_class_without_pictures_has_no_accuracy():
    probabilities = np.eye(3, dtype=np.float32)[[0, 0, 2, 0]]
    ours = tallied(probabilities, np.array([0, 0, 2, 2]))
    expected = {"class 0": 1.0, "class 1": None, "class 2": 0.5}
    assert ours["per_class"] == expected
    assert worst_classes(ours) == [("class 2", 0.5), ("class 0", 1.0)]
    assert worst_classes(ours, 1) == [("class 2", 0.5)]


def test_worst_pairs_are_listed_by_count_and_then_by_class():
    truth, said = [0] * 4 + [1] * 3 + [2] * 2, [0, 1, 1, 2, 0, 0, 1, 2, 0]
    pairs = tallied(np.eye(3)[said], np.array(truth))["confused"]
    rows = [(2, "class 0", "class 1", 1 / 2), (2, "class 1", "class 0", 2 / 3)]
    rows += [(1, "class 0", "class 2", 1 / 4), (1, "class 2", "class 0", 1 / 2)]
    keys = ("count", "true", "predicted", "share")
    assert pairs == [dict(zip(keys, row)) for row in rows]


def test_many_classes_take_the_memory_of_the_pairs_there_were(tmp_path):
    classes, truth = 30_000, np.arange(0, 300, 2)
    tracemalloc.start()
    tally = Tally(classes)
    for start in range(0, len(truth), 10):
        probabilities = np.zeros((10, classes), np.float32)
        probabilities[np.arange(10), truth[start : start + 10] + 1] = 1
        tally.add(probabilities, truth[start : start + 10])
    metrics = tally.result([f"class {k}" for k in range(classes)])
    text = to_json(metrics)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100 * 2**20  # of which the batch has 5
    assert len(text) < 2 * 2**20
    assert "confusion" not in metrics
    assert [row["true"] for row in metrics["confused"][:2]] == ["class 0", "class 2"]
    assert len(metrics["confused"]) == 100 < len(truth)
    confusion_map(metrics, tmp_path / "confusion.png")
    assert list(tmp_path.iterdir()) == []


def test_classes_of_one_name_are_told_apart():
    tally = Tally(3)
    tally.add(np.eye(3), np.array([0, 1, 1]))
    per_class = tally.result(["crane", "drake", "crane"])["per_class"]
    assert per_class == {"crane (0)": 1.0, "drake": 0.5, "crane (2)": None}


def test_measures_are_written_a_row_a_line():
    confusion = np.arange(90_000).reshape(300, 300).tolist()
    entry = {"where": 'a "[\n 1\n]" b', "reason": "é"}
    metrics = {
        "top1": 0.1,
        "per_class": {"a": None, '"': 1.0},
        "confusion": confusion,
        "bad_examples": [entry, entry],
        "ema": {"confusion": [[1]], "none": [], "nothing": {}},
    }
    text = to_json(metrics)
    assert json.loads(text) == metrics
    for row in confusion:
        assert f"\n  {json.dumps(row)}" in text
    del metrics["confusion"], metrics["ema"]["confusion"]
    assert to_json(metrics) == json.dumps(metrics, indent=1)


def drawing(path, confusion, names=None):
    names = names or map(str, range(len(confusion)))
    metrics = {"confusion": confusion, "per_class": dict.fromkeys(names, 1.0)}
    confusion_map(metrics, path)
    return data.decode_image(tf.io.read_file(str(path))).numpy()


def test_confusion_map_shows_shares_of_each_class(tmp_path):
    path = tmp_path / "confusion.png"
    shares = drawing(path, [[4, 0], [1, 1]])
    np.testing.assert_array_equal(shares, drawing(path, [[8, 0], [300, 300]]))
    assert (shares != drawing(path, [[4, 0], [0, 2]])).any()


def test_confusion_map_of_any_names_and_number_of_classes(tmp_path):
    path = tmp_path / "confusion.png"
    plain = drawing(path, [[1, 0], [0, 1]], ["a", "b"])
    odd = drawing(path, [[1, 0], [0, 1]], ["$\\nope$", "\udcff of _ {"])
    assert (plain != odd).any()
    drawing(path, np.eye(1000, dtype=int).tolist())
    drawing(path, [[0]])


def test_metrics_are_those_of_a_loop_by_hand(trained, folder):
    _, model = trained
    hits, losses, outputs = [], [], []
    for label, name in enumerate(("blue", "green", "red")):
        for path in sorted((folder / "val" / name).iterdir()):
            image = evaluate.load_picture(path, model.info.protocol)
            p = model.predict(image[None], verbose=0)[0].astype(np.float64)
            hits.append(p.argmax() == label)
            losses.append(-np.log(p[label]))
            outputs.append(p)
    truth = np.repeat([0, 1, 2], 4)
    for batch_size in (1, 5, 64):
        metrics = evaluate.run(model, folder, batch_size=batch_size)
        assert metrics["top1"] == np.mean(hits)
        assert metrics["top5"] == 1.0  # of three classes
        assert metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
        assert metrics["examples"] == 12
        assert metrics["per_class"] == {
            name: np.mean(np.array(hits)[truth == label])
            for label, name in enumerate(("blue", "green", "red"))
        }
        assert np.sum(metrics["confusion"], 1).tolist() == [4, 4, 4]
        assert metrics["calibration_error"] == pytest.approx(
            error_by_loop(np.array(outputs), truth), rel=1e-4
        )


@pytest.mark.slow
def test_a_model_of_equal_scores_is_right_by_chance_alone(folder):
    model = keras_resnet.create("resnet18d", width=8, classes=3)
    head = model.get_layer("head")
    head.set_weights([np.zeros_like(weight) for weight in head.get_weights()])
    metrics = evaluate.run(model, folder)
    assert metrics["top1"] == pytest.approx(1 / 3)
    assert metrics["confusion"] == [[4, 0, 0]] * 3
    assert metrics["calibration_error"] == pytest.approx(0, abs=1e-7)


@pytest.mark.slow
def test_a_model_that_gives_no_numbers_is_refused(folder):
    model = keras_resnet.create("resnet18d", width=8, classes=3)
    head = model.get_layer("head")
    head.set_weights([np.full_like(weight, np.nan) for weight in head.get_weights()])
    with pytest.raises(ModelError, match="resnet18d: its probabilities are not finite"):
        evaluate.run(model, folder)


@pytest.mark.parametrize("activation", [None, "linear"])
def test_logits_evaluate_as_their_softmax(activation, trained, folder):
    _, model = trained
    logits = rebuild(model, classifier_activation=activation)
    ours, theirs = evaluate.run(logits, folder), evaluate.run(model, folder)
    assert_close(ours, theirs)


def assert_close(ours, theirs):
    """The same counts, and the same loss and confidence but for rounding."""
    measured = ("loss", "calibration_error")
    for name in measured:
        assert ours[name] == pytest.approx(theirs[name], rel=1e-5)
    assert {**ours, **dict.fromkeys(measured)} == {**theirs, **dict.fromkeys(measured)}


def test_data_of_other_classes_is_refused(trained, own_folder):
    for split in ("train", "val"):
        shutil.move(own_folder / split / "red", own_folder / split / "rot")
    with pytest.raises(ModelError, match="only in one: red, rot"):
        evaluate.run(trained[1], own_folder)


def test_predictions_name_the_classes(trained, folder):
    _, model = trained
    results = evaluate.predict(model, [folder / "val"], top=2)
    assert len(results) == 12
    for result in results:
        assert len(result["classes"]) == len(result["probabilities"]) == 2
        assert result["probabilities"][0] >= result["probabilities"][1]
    assert {name for result in results for name in result["classes"]} <= {
        "blue",
        "green",
        "red",
    }


def test_predictions_of_random_weights_say_so(trained, folder, capsys):
    picture = folder / "val" / "red" / "000.png"
    evaluate.predict(trained[1], [picture])
    assert capsys.readouterr().err == ""
    bare = keras_resnet.create("resnet18d", width=8, depths=(1,), classes=3)
    evaluate.predict(bare, [picture])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("resnet18d: its weights are random, and so are its answers")


@pytest.mark.slow
@pytest.mark.parametrize("views", ["ten-crop", "multi-scale"])
def test_predictions_of_views_are_those_of_evaluation(
    views, trained, folder, tmp_path, monkeypatch
):
    model, seen = trained[1], []
    real = Tally.add

    def add(tally, probabilities, truth):
        seen.extend(probabilities)
        real(tally, probabilities, truth)

    monkeypatch.setattr(Tally, "add", add)
    evaluate.run(model, folder, views=views, batch_size=5)
    results = evaluate.predict(model, [folder / "val"], top=3, views=views)
    assert len(results) == len(seen) == 12
    for result, expected in zip(results, seen):
        order = np.argsort(-expected)
        assert result["classes"] == [model.info.class_names[it] for it in order]
        np.testing.assert_allclose(result["probabilities"], expected[order], 1e-4, 1e-6)
    if views == "ten-crop":
        image = data.decode_image(tf.io.read_file(results[0]["file"]))
        crops = data.ten_crop(image, 32, model.info.protocol.crop_pct).numpy()
        expected = np.sort(model.predict_on_batch(crops).mean(0))[::-1]
        np.testing.assert_allclose(results[0]["probabilities"], expected, 1e-4, 1e-6)


def test_threshold_leaves_out_what_is_less_likely(trained, folder):
    model, pictures = trained[1], [folder / "val"]
    every = evaluate.predict(model, pictures, top=3)
    borders = sorted(p for result in every for p in result["probabilities"])
    for least in (0.0, borders[len(borders) // 2], borders[-1], 1.0):
        for ours, whole in zip(
            evaluate.predict(model, pictures, top=3, threshold=least), every
        ):
            pairs = zip(whole["classes"], whole["probabilities"])
            kept = [pair for pair in pairs if pair[1] >= least]
            assert [*zip(ours["classes"], ours["probabilities"])] == kept
    for bad in (-0.1, 1.5, float("nan")):
        with pytest.raises(ModelError, match=f"threshold={bad}: must be in"):
            evaluate.predict(model, pictures, threshold=bad)
    with pytest.raises(ValueError, match="views='many': must be one of"):
        evaluate.predict(model, pictures, views="many")


@pytest.mark.slow
def test_command_predicts_by_ten_crops_and_above_a_threshold(
    trained, folder, tmp_path, call
):
    asked = ("predict", trained[0], folder / "val" / "red", "--ten-crop")
    results = json.loads(call(*asked, "--json", cwd=tmp_path).out)
    expected = evaluate.predict(trained[1], [folder / "val" / "red"], views="ten-crop")
    for ours, theirs in zip(results, expected, strict=True):
        assert ours["classes"] == theirs["classes"]
        assert ours["probabilities"] == pytest.approx(theirs["probabilities"], rel=1e-5)
    likely = sorted(result["probabilities"][0] for result in results)
    least = ("--threshold", likely[-1])  # which one picture alone reaches
    one = json.loads(call(*asked, *least, "--json", cwd=tmp_path).out)
    assert sorted(len(result["classes"]) for result in one) == [0, 0, 0, 1]
    rows = [
        *csv.DictReader(io.StringIO(call(*asked, *least, "--csv", cwd=tmp_path).out))
    ]
    assert sorted(row["rank"] for row in rows) == ["", "", "", "1"]
    assert call(*asked, *least, cwd=tmp_path).out.count("none reaches the thresh") == 3
    for options, words in (
        (["--threshold", 1.5], "1.5 is not in the range 0<=x<=1"),
        (["--out", "tables"], "--ten-crop, --threshold, --scaled-decode: not with"),
        (["--scaled-decode"], "--scaled-decode with --ten-crop"),
    ):
        done = call(*asked, *options, cwd=tmp_path)
        assert done.returncode == 2
        assert words in done.err
    assert [*tmp_path.iterdir()] == []


@pytest.mark.slow
def test_commands_may_decode_large_jpegs_smaller(trained, tmp_path, call):
    draw = np.random.default_rng(0)
    photo, exported = tmp_path / "photo.jpg", tmp_path / "exported"
    photo.write_bytes(encoded(draw.integers(0, 256, (400, 400, 3), np.uint8)))
    run, model = trained
    (exact,) = evaluate.predict(model, [photo])
    info = model.info
    protocol = dataclasses.replace(info.protocol, scaled_decode=True)
    model.info = info.replace(protocol=protocol)
    try:
        (expected,) = evaluate.predict(model, [photo])
    finally:
        model.info = info
    assert expected["probabilities"] != pytest.approx(exact["probabilities"], rel=1e-4)
    call("export", run, exported, "--scaled-decode", cwd=tmp_path)
    for options in ((run, photo, "--scaled-decode"), (exported, photo)):
        (ours,) = json.loads(call("predict", *options, "--json", cwd=tmp_path).out)
        assert ours["probabilities"] == pytest.approx(
            expected["probabilities"], rel=1e-4
        )


def test_picture_grid_is_a_picture(trained, folder, tmp_path):
    evaluate.picture_grid(trained[1], folder, tmp_path / "grid.png", count=12)
    grid = data.decode_image(tf.io.read_file(str(tmp_path / "grid.png"))).numpy()
    assert grid.shape[0] > 200
    assert len(np.unique(grid.reshape(-1, 3), axis=0)) > 1000


def test_picture_grid_takes_a_name_as_it_is(tmp_path):
    model = keras_resnet.create("resnet18d", width=8, classes=2)
    pair = np.zeros((2, 40, 40, 3), np.uint8), np.array([0, 1])
    source = {"val": pair, "class_names": ["$\\nope$", "\udcff of _ {"]}
    evaluate.picture_grid(model, source, tmp_path / "grid.png", count=2)
    assert (tmp_path / "grid.png").is_file()


def test_unreadable_picture_is_named(trained, tmp_path):
    _, model = trained
    with pytest.raises(DataError, match=r"nothing.jpg: no such file"):
        evaluate.predict(model, [tmp_path / "nothing.jpg"])
    (tmp_path / "text.jpg").write_text("hello")
    with pytest.raises(DataError, match=r"text.jpg: not a readable picture"):
        evaluate.predict(model, [tmp_path / "text.jpg"])


def test_files_that_are_no_pictures_have_rows_with_the_reason(
    trained, folder, tmp_path
):
    _, model = trained
    for name in ("b/1.jpg", "a-b.jpg", "a/x.png", ".hidden.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(folder / "val" / "red" / "000.png", tmp_path / name)
    (tmp_path / "a" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" * 9)
    (tmp_path / "a" / "empty.jpg").touch()
    files = [tmp_path, tmp_path / "nothing.jpg", folder / "val" / "red" / "001.jpg"]
    results = list(evaluate.predict_each(model, files, top=2, batch_size=3))
    # a folder's own entries in their order, as in a listing
    assert [Path(result["file"]).relative_to(tmp_path).as_posix() for result in
            results[:-1]] == ["a/Thumbs.db", "a/empty.jpg", "a/x.png", "a-b.jpg",
                              "b/1.jpg", "nothing.jpg"]  # fmt: skip
    problems = [result.get("problem", "") for result in results]
    assert [bool(problem) for problem in problems] == [1, 1, 0, 0, 0, 1, 0]
    assert problems[0].startswith("not a readable picture: ")
    assert problems[5] == "no such file"
    good = [result for result in results if "problem" not in result]
    for ours, file in zip(good, [files[0] / "a" / "x.png"] * 3 + [files[2]]):
        (alone,) = evaluate.predict(model, [file], top=2)
        assert ours["classes"] == alone["classes"]
        assert ours["probabilities"] == pytest.approx(alone["probabilities"], rel=1e-4)
    with pytest.raises(DataError, match=r"a/Thumbs.db: not a readable picture"):
        evaluate.predict(model, files)
    assert list(evaluate.predict_each(model, [])) == []


def test_predictions_come_a_batch_at_a_time(trained, folder, monkeypatch):
    loaded = []
    real = evaluate.load_picture

    def load(path, *how):
        loaded.append(path)
        return real(path, *how)

    monkeypatch.setattr(prediction, "load_picture", load)
    results = evaluate.predict_each(trained[1], [folder / "train"], batch_size=5)
    for count in (5, 10, 15):
        for _ in range(5):
            next(results)
        assert len(loaded) == count


def test_command_predicts_past_what_is_no_picture(trained, folder, tmp_path, call):
    shutil.copy(folder / "val" / "red" / "000.png", tmp_path / "[good].png")
    (tmp_path / "bad.jpg").write_text("<html>")

    def ask(*options):
        done = call("predict", trained[0], ".", "--top", 2, *options, cwd=tmp_path)
        assert done.returncode == 1
        assert done.err.endswith(
            "1 of 2 files cannot be classified; their rows say why\n"
        )
        return done.out

    good, bad = json.loads(ask("--json"))
    assert (good["file"], bad["file"]) == ("[good].png", "bad.jpg")
    assert len(good["classes"]) == 2
    assert bad["problem"].startswith("not a readable picture: ")
    first, second, third = csv.DictReader(io.StringIO(ask("--csv")))
    assert (first["rank"], second["rank"], first["problem"]) == ("1", "2", "")
    assert (third["class"], third["problem"]) == ("", bad["problem"])
    assert re.search(r"\[good\].png.+%[\s\S]+bad.jpg\W+not a readable", ask())


@pytest.fixture
def run_command(call, trained, folder, tmp_path):
    """`keras-resnet evaluate` of a copy of the trained run."""
    shutil.copytree(trained[0], tmp_path / "run")

    def run_command(*options, data=folder):
        return call("evaluate", "run", data, *options, cwd=tmp_path)

    return run_command


@pytest.fixture(scope="module")
def usual(trained, folder):
    """What `evaluate.run` says of the trained model."""
    return evaluate.run(trained[1], folder)


WRITTEN = ("metrics.json", "predictions.png", "confusion.png")


def written(tmp_path):
    return [name for name in WRITTEN if (tmp_path / "run" / name).exists()]


@pytest.mark.slow
def test_usual_evaluation_is_kept_in_the_run(run_command, usual, trained, tmp_path):
    expected = usual
    for options in ([], ["--size", trained[1].info.protocol.size]):
        for name in written(tmp_path):
            (tmp_path / "run" / name).unlink()
        done = run_command("--json", *options)
        assert done.returncode == 0, done.err
        assert json.loads(done.out) == expected
        assert written(tmp_path) == list(WRITTEN)
    text = (tmp_path / "run" / "metrics.json").read_text()
    assert json.loads(text) == expected
    for row in expected["confusion"]:
        assert f"\n  {row}" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        (["--ten-crop"], {"views": "ten-crop"}),
        (["--size", "48"], {"size": 48}),
        (["--ten-crop", "--size", "48"], {"views": "ten-crop", "size": 48}),
        (["--scales", "32,48"], {"scales": (32, 48)}),
        (["--split", "train"], {"split": "train"}),
    ],
)
def test_other_views_are_those_of_python_and_leave_the_run_alone(
    options, arguments, run_command, usual, trained, folder, tmp_path
):
    done = run_command("--json", *options)
    assert done.returncode == 0, done.err
    ours = json.loads(done.out)
    assert ours == evaluate.run(trained[1], folder, **arguments)
    assert ours["loss"] != usual["loss"]
    assert written(tmp_path) == []


def test_paper_is_the_five_scales_of_the_paper(run_command, monkeypatch):
    asked = {}

    def run(*_, **options):
        asked.update(options)
        raise DataError("enough")

    monkeypatch.setattr(evaluate, "run", run)
    assert run_command("--scales", "paper").returncode == 1
    assert asked["scales"] == (224, 256, 384, 480, 640)


@pytest.mark.slow
def test_table_names_the_measures_and_the_worst_classes(run_command, trained, folder):
    metrics = evaluate.run(trained[1], folder)
    done = run_command()
    assert done.returncode == 0
    for words in (
        rf"top-1\W+{metrics['top1']:.2%}",
        rf"loss, nats\W+{metrics['loss']:.4f}",
        rf"calibration error\W+{metrics['calibration_error']:.2%}",
        r"images\W+12",
        *(f"worst: {name}\\W+{p:.2%}" for name, p in metrics["per_class"].items()),
    ):
        assert re.search(words, done.out), words
    assert "confusion" not in done.out


def test_table_of_one_class_has_no_worst_one(capsys):
    tally = Tally(1)
    tally.add(np.ones((2, 1), np.float32), np.zeros(2, int))
    base.out.print(evaluating.metrics_table(tally.result(["all"])))
    assert "worst" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ten-crop", "--scales", "32"], "--ten-crop with --scales"),
        (["--size", "48", "--scales", "paper"], "--size with --scales"),
        (["--ten-crop", "--scaled-decode"], "--scaled-decode with --ten-crop"),
        (["--scales", "32,big"], "'--scales': 'big'"),
        (["--scales", "32,0"], "'--scales': 0 is not in the range"),
        (["--scales", ""], "'--scales': ''"),
        (["--size", "0"], "'--size': 0 is not in the range"),
        (["--size", "9" * 12], "'--size'"),
        (["--views", "ten-crop"], "No such option"),
    ],
)
def test_invalid_options_exit_with_2(options, words, run_command):
    done = run_command(*options, data="nowhere")
    assert done.returncode == 2
    assert done.out == ""
    assert words in done.err
    assert sum("Error" in line for line in done.err.splitlines()) == 1


def test_failures_are_one_line(run_command, own_folder):
    write_picture(own_folder / "val" / "red" / "long.png", (0, 0, 0), 0, (4, 400))
    done = run_command("--size", 48, data="nowhere")
    assert (done.returncode, done.out) == (1, "")
    assert len(done.err.splitlines()) == 1
    assert "nowhere" in done.err
    done = run_command("--scales", "32,9000", "--json", data=own_folder)
    assert (done.returncode, done.out) == (1, "")
    assert len(done.err.splitlines()) == 1
    assert "scales: an image of" in done.err
    assert "at a short side of 9000" in done.err
