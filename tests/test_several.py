"""Images with none, one or several labels, from a table to what is served."""

import csv
import json
import signal

import numpy as np
import pytest
from PIL import Image
from resume_program import RECIPE
from runs import differing, final, stop
from serving import ask_bytes, serving
from test_devices import BACKENDS, run_on

import keras_resnet
from keras_resnet import data, evaluate, export, push_to_hub, report, train
from keras_resnet.errors import DataError, ModelError, RecipeError
from keras_resnet.evaluate.calibration import find_temperature
from keras_resnet.evaluate.measures import TagTally
from keras_resnet.export import open_any
from keras_resnet.info import ModelInfo
from keras_resnet.opening import open_model
from keras_resnet.train.thresholds import best_threshold

NAMES = ("blue", "green", "red")
COLOURS = {"red": (220, 50, 40), "green": (40, 200, 60), "blue": (30, 60, 220)}
SEVERAL = RECIPE.replace(
    loss="binary-cross-entropy", flip=0.0, colour=0.0, min_area=0.9, epochs=6
)


def write_table(folder, rows, name="labels.csv", columns=("path", "split", "labels")):
    with open(folder / name, "w", newline="") as stream:
        csv.writer(stream).writerows([columns, *rows])
    return folder / name


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Grey images with a patch of each colour that they are labelled with."""
    root = tmp_path_factory.mktemp("several")
    drawn = np.random.default_rng(0)
    rows = []
    for number in range(64):
        pixels = drawn.integers(90, 130, (32, 32, 3), np.uint8)
        # every set of colours, and none
        some = [name for place, name in enumerate(NAMES) if number >> place & 1]
        for place, name in enumerate(drawn.permutation(some)):
            left, top = 16 * (place % 2), 16 * (place // 2)
            pixels[top : top + 16, left : left + 16] = COLOURS[name]
        Image.fromarray(pixels).save(root / f"{number}.png")
        split = "val" if number >= 40 else "train"
        rows.append((f"{number}.png", split, ";".join(some)))
    return write_table(root, rows)


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "run"
    train.fit(SEVERAL, table, path)
    return path


def truth_of(table, split="val"):
    source = data.open_source(table)
    return np.stack([y for _, y in source.split(split).ordered().as_numpy_iterator()])


def probabilities(model, table):
    batches = data.eval_batches(table, model.info.protocol, "val", 24)
    return np.concatenate([model.predict_on_batch(x.numpy()) for x, _ in batches])


def test_table_gives_the_labels_of_each_image(table):
    source = data.open_source(table)
    assert source.several_labels
    assert source.class_names == NAMES
    assert (source.train.size, source.val.size) == (40, 24)
    expected = [[number >> place & 1 for place in range(3)] for number in range(40)]
    assert truth_of(table, "train").tolist() == expected
    taken = source.train.take(np.array([5, 0]))
    assert [y.tolist() for _, y in taken.ordered().as_numpy_iterator()] == [
        [1, 0, 1],
        [0, 0, 0],
    ]


def test_parquet_is_the_same_data(table):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    with open(table, newline="") as stream:
        rows = list(csv.DictReader(stream))
    lists = [[name for name in row["labels"].split(";") if name] for row in rows]
    columns = {name: [row[name] for row in rows] for name in ("path", "split")}
    for kind, labels in (("text", [row["labels"] for row in rows]), ("list", lists)):
        file = table.parent / f"{kind}.parquet"
        parquet.write_table(pyarrow.table({**columns, "labels": labels}), file)
        assert data.open_source(file).fingerprint == data.open_source(table).fingerprint


def test_table_of_one_label_is_as_a_folder(folder, tmp_path):
    source = data.open_source(folder)
    rows = [
        (path, split, source.class_names[label])
        for split in ("val", "train")
        for path, label in zip(source.splits[split].files, source.splits[split].labels)
    ]
    listed = data.open_source(
        write_table(tmp_path, rows, columns=("path", "split", "label"))
    )
    assert listed.fingerprint == source.fingerprint
    assert not listed.several_labels


@pytest.mark.slow
def test_mixed_labels_are_the_mix_of_several(table):
    recipe = SEVERAL.replace(mixup=1.0)
    for images, labels in data.train_batches(table, recipe).take(3):
        assert images.shape == (8, 32, 32, 3)
        plain = data.train_batches(table, recipe.replace(mixup=0.0)).take(1)
        assert labels.shape == next(iter(plain))[1].shape
        assert float(np.max(labels)) <= 1


def test_run_learns_stores_thresholds_and_is_measured(run, table):
    metrics = pytest.importorskip("sklearn.metrics")
    model = open_model(run)
    info = model.info
    assert info.classifier_activation == "sigmoid"
    p, truth = probabilities(model, table), truth_of(table)
    assert info.thresholds == tuple(
        best_threshold(p[:, k].astype(np.float64), truth[:, k] > 0) for k in range(3)
    )
    result = evaluate.run(model, table)
    said = p >= np.array(info.thresholds, np.float32)
    each = metrics.average_precision_score(truth, p, average=None)
    assert [*result["average_precision"].values()] == pytest.approx(each)
    assert result["mean_average_precision"] == pytest.approx(each.mean())
    assert result["mean_average_precision"] > truth.mean() + 0.1  # has learned
    f1 = metrics.f1_score(truth, said, average=None)
    assert [*result["f1"].values()] == pytest.approx(f1)
    for average in ("macro", "micro"):
        score = metrics.f1_score(truth, said, average=average)
        assert result[f"{average}_f1"] == pytest.approx(score)
    loss = np.mean([metrics.log_loss(truth[:, k], p[:, k]) for k in range(3)])
    assert result["loss"] == pytest.approx(loss, rel=1e-5)
    likeliest = truth[np.arange(len(p)), p.argmax(1)]
    assert result["top1"] == pytest.approx(likeliest.mean())
    history = json.loads((run / "history.json").read_text())
    assert history[-1]["val_top1"] == pytest.approx(likeliest.mean())
    assert history[-1]["val_top5"] == pytest.approx((truth.sum(1) > 0).mean())


@pytest.mark.slow
def test_stopped_run_resumes_to_the_same_bits(run, table, tmp_path):
    stop(table, tmp_path / "cut", ("batch end", 2, 1), signal.SIGTERM, SEVERAL)
    train.fit(SEVERAL, table, tmp_path / "cut")
    assert differing(final(run), final(tmp_path / "cut")) == []
    infos = [open_model(path).info for path in (run, tmp_path / "cut")]
    assert infos[0] == infos[1]


@pytest.mark.slow
def test_calibrated_model_decides_the_same_and_is_exported(run, table, tmp_path):
    model = open_model(run)
    calibrated, report = evaluate.calibrate(model, table)
    assert report["after"]["loss"] <= report["before"]["loss"]
    exported = export.save(calibrated, tmp_path / "served")
    engine = open_any(exported)
    assert engine.info.thresholds == calibrated.info.thresholds
    files = [table.parent / f"{number}.png" for number in range(40, 64)]
    before, after, served = (
        evaluate.predict(it, files) for it in (model, calibrated, engine)
    )
    assert [row["labels"] for row in before] == [row["labels"] for row in after]
    for ours, theirs in zip(after, served):
        assert ours["labels"] == theirs["labels"]
        assert ours["probabilities"] == pytest.approx(theirs["probabilities"], abs=1e-4)
    assert any(len(row["labels"]) > 1 for row in before)
    with serving(exported.parent) as client:
        rows = ask_bytes(client, *(file.read_bytes() for file in files)).json()
    for ours, theirs in zip(rows["predictions"], after):
        assert ours["ok"]
        likely = [theirs["probabilities"][theirs["classes"].index(it)] for it in NAMES]
        assert ours["probabilities"] == pytest.approx(likely, abs=1e-4)
    ours, theirs = evaluate.run(calibrated, table), evaluate.run(engine, table)
    assert ours["loss"] == pytest.approx(report["after"]["loss"], abs=1e-5)
    assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_two_devices_choose_the_thresholds_of_one(backend, table, tmp_path):
    fields = {"loss": SEVERAL.loss, "epochs": 1, "warmup_epochs": 0.0}
    for count in (1, 2):
        run_on(
            count,
            backend,
            "fit",
            tmp_path / "out.npz",
            run=str(tmp_path / str(count)),
            data=str(table),
            recipe=fields,
        )
    one, two = (open_model(tmp_path / str(count)).info.thresholds for count in (1, 2))
    assert one == pytest.approx(two, abs=1e-4)


@pytest.mark.slow
def test_weights_file_knows_of_several_labels(run, table, tmp_path):
    model = open_model(run)
    keras_resnet.save_weights(model, tmp_path / "tags.safetensors")
    other = open_model(f"resnet18d:{tmp_path / 'tags.safetensors'}")
    assert other.info.classifier_activation == "sigmoid"
    assert other.info.thresholds == model.info.thresholds
    np.testing.assert_array_equal(*(probabilities(it, table) for it in (model, other)))
    assert "blue" in push_to_hub(run, "me/tags", dry_run=True).card


def test_report_has_the_measures_and_no_images(run, tmp_path):
    result = report.write(run, out=tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "micro F1" in text
    assert "<img" not in text
    (row,) = result["runs"]
    assert 0 < row["mean_average_precision"] <= 1


@pytest.mark.slow
def test_commands_say_the_labels(run, table, call, tmp_path):
    said = call("predict", run, table.parent / "7.png", "--json", cwd=tmp_path)
    (row,) = json.loads(said.out)
    assert set(row["labels"]) <= set(NAMES)
    assert len(row["classes"]) == 3
    assert "red" in call("predict", run, table.parent / "7.png", cwd=tmp_path).out
    assert "micro F1" in call("evaluate", run, table, cwd=tmp_path).out


def test_temperature_of_several_labels_has_the_least_loss():
    drawn = np.random.default_rng(0)
    logits = drawn.normal(0, 3, (200, 4))
    labels = drawn.uniform(size=logits.shape) < 1 / (1 + np.exp(-logits / 2))
    found = find_temperature(logits, labels)

    def loss(temperature):
        p = 1 / (1 + np.exp(-logits / temperature))
        return -np.log(np.where(labels, p, 1 - p)).mean()

    assert loss(found) < min(loss(found * 0.99), loss(found * 1.01))
    assert found == pytest.approx(2, rel=0.2)


def test_best_threshold_is_that_of_trying_all():
    drawn = np.random.default_rng(0)
    for _ in range(50):
        p = drawn.uniform(size=20).round(1)  # some are equal
        truth = drawn.uniform(size=20) < p
        truth[0] = True

        def f1(threshold, p=p, truth=truth):
            said = p >= threshold
            return 2 * (said & truth).sum() / (said.sum() + truth.sum())

        best = best_threshold(p, truth)
        assert f1(best) == max(f1(it) for it in np.linspace(0.001, 1, 2000))
    assert best_threshold(np.array([0.1, 0.9]), np.array([False, False])) == 0.5


def test_class_of_no_image_has_no_precision_and_no_recall():
    tally = TagTally([0.5, 0.5])
    tally.add(np.array([[0.9, 0.1], [0.2, 0.2]]), np.array([[True, False]] * 2))
    result = tally.result(("a", "b"))
    assert result["per_class"] == {"a": 0.5, "b": None}
    assert result["average_precision"] == {"a": 1.0, "b": None}
    assert result["macro_f1"] == pytest.approx(2 / 3)


HEADER = ("path", "split", "labels")
GOOD = [("0.png", "train", "a"), ("1.png", "val", "a")]


@pytest.mark.parametrize(
    ("rows", "columns", "words"),
    [
        ([("9.png", "train", "a")], HEADER, "row 4: '9.png': cannot be read"),
        ([("0.png", "val", "a")], HEADER, "'0.png' is there twice"),
        ([("", "val", "a")], HEADER, "path ''; must name an image file"),
        ([("2.png", "test", "a")], HEADER, "split 'test'; must be train or val"),
        ([("2.png", "val", "a;a")], HEADER, "label 'a' is there twice"),
        ([("2.png", "val", "b")], HEADER, "label 'b' has no training pictures"),
        ([("2.png", "val")], HEADER, "line 4: not 3 fields"),
        ([("2.png", "val", "a", "b")], HEADER, "line 4: not 3 fields"),
        ([("2.png", "val", "a\x07")], HEADER, "has a control character"),
        ([], ("path", "split", "tags"), "no column label, but"),
        ([], ("file", "split", "labels"), "no column path, but"),
        ([], ("path", "labels", "label"), "keep the one that counts"),
        ([("2.png", "train", "")], ("path", "split", "label"), "class name ''"),
    ],
)
def test_bad_table_is_one_clear_line(rows, columns, words, table, tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(
            (table.parent / f"{number}.png").read_bytes()
        )
    file = write_table(tmp_path, [*GOOD, *rows], columns=columns)
    with pytest.raises(DataError) as failed:
        data.open_source(file)
    assert words in str(failed.value)
    assert "\n" not in str(failed.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no column path"),
        (b"path,split,labels\n", "no rows"),
        (b"path,split,labels\n0.png,train,\n", "no row has a label"),
        (b"path,split,labels\n\xff.png,train,a\n", "not UTF-8"),
    ],
)
def test_bad_csv_is_one_clear_line(content, words, table, tmp_path):
    (tmp_path / "0.png").write_bytes((table.parent / "0.png").read_bytes())
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(DataError, match=words):
        data.open_source(tmp_path / "labels.csv")


def test_bad_parquet_is_one_clear_line(tmp_path):
    pytest.importorskip("pyarrow")
    for name in ("no.csv", "no.parquet"):
        with pytest.raises(DataError, match=f"{name}: .*No such file"):
            data.open_source(tmp_path / name)
    (tmp_path / "labels.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match="not Parquet"):
        data.open_source(tmp_path / "labels.parquet")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"loss": "cross-entropy"}, "give loss='binary-cross-entropy'"),
        ({"class_weights": "balanced"}, "several"),
        ({"sampling": "balanced"}, "sampling='balanced'"),
        ({"teacher": "resnet18d", "temperature": 2.0}, "teacher='resnet18d'"),
    ],
)
def test_what_needs_one_label_is_refused(fields, words, table, tmp_path):
    with pytest.raises((RecipeError, DataError), match=words):
        train.fit(SEVERAL.replace(**fields), table, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_models_and_data_of_other_labels_do_not_meet(run, table, tmp_path):
    with pytest.raises(DataError, match="prepare takes one label an image"):
        data.prepare(table, tmp_path / "shards")
    rows = [(f"{1 << place}.png", "train", name) for place, name in enumerate(NAMES)]
    columns = ("path", "split", "label")
    one = write_table(table.parent, rows, "one.csv", columns)
    with pytest.raises(ModelError, match="the model was trained for several labels"):
        evaluate.run(open_model(run), one, "train")


def test_damaged_thresholds_are_refused():
    info = json.loads(json.dumps({"variant": "resnet18d", "config": None}))
    for wrong in ([0.5], [0.5, 2.0], "0.5", [0.5, None]):
        with pytest.raises(ValueError, match="thresholds"):
            ModelInfo.from_json({**info, "classes": 2, "thresholds": wrong})
