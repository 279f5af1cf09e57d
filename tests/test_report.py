"""The report's figures are those of scikit-learn and evaluate; it asks for nothing."""

import dataclasses
import html.parser
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import COLOURS, write_picture
from PIL import Image

import keras_resnet
from keras_resnet import data, evaluate, report, train
from keras_resnet.drawing import svg
from keras_resnet.errors import DataError, RunError
from keras_resnet.evaluate.measures import BINS
from keras_resnet.recipe import FIELD_TYPES, Recipe
from keras_resnet.report import advice, facts, plots, sections
from keras_resnet.report.contents import Contents, Copy, survey
from keras_resnet.report.facts import Answers, Facts
from keras_resnet.runs import layout

VOID = {"meta", "link", "img"}
SINGLE = ("top1", "top5", "loss", "calibration_error", "balanced_accuracy", "macro_f1")


class Page(html.parser.HTMLParser):
    """The elements of a page: [(tag, attributes, text within)], in order."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.open = [], []
        self.source = Path(path).read_text()
        self.feed(self.source)
        self.close()
        assert self.open == []  # all is closed, in order

    def handle_starttag(self, tag, attrs):
        self.elements.append([tag, dict(attrs), ""])
        if tag not in VOID:
            self.open.append(self.elements[-1])

    def handle_startendtag(self, tag, attrs):
        self.elements.append([tag, dict(attrs), ""])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, text):
        for element in self.open:
            element[2] += text

    def texts(self, tag, **attributes):
        return [
            text
            for found, given, text in self.elements
            if found == tag and attributes.items() <= given.items()
        ]

    def tables(self):
        """[[row of texts, ...], ...] of all tables but the confusion matrix."""
        tables, rows = [], None
        for tag, given, text in self.elements:
            if tag == "table":
                rows = [] if given.get("class") != "matrix" else None
                tables += [rows] if rows is not None else []
            elif tag == "tr" and rows is not None:
                rows.append([])
            elif tag in ("th", "td") and rows is not None:
                rows[-1].append(text)
        return tables


@pytest.fixture(scope="module")
def written(trained, folder, tmp_path_factory):
    """(what `report.write` returned, the page) of the tiny run."""
    out = tmp_path_factory.mktemp("report") / "tiny.html"
    result = report.write(trained[0], folder, out, pictures=5)
    return result, Page(out)


@pytest.fixture(scope="module")
def answered(trained, folder):
    """(true classes, probabilities) of the tiny run, one image at a time."""
    split = data.open_source(folder).split("val")
    rows = evaluate.predict(trained[1], split.files, top=3)
    probabilities = np.zeros((split.size, 3), np.float32)
    for row, found in zip(rows, probabilities):
        for name, probability in zip(row["classes"], row["probabilities"]):
            found[list(COLOURS).index(name)] = probability
    return np.array(split.labels), probabilities


def test_figures_are_those_of_evaluate_and_scikit_learn(
    trained, folder, written, answered
):
    sklearn = pytest.importorskip("sklearn.metrics")
    (found,) = written[0]["runs"]
    expected = evaluate.run(trained[1], folder)
    assert {name: found[name] for name in SINGLE} == {n: expected[n] for n in SINGLE}
    truth, probabilities = answered
    guess = probabilities.argmax(1)
    ours = [found[it] for it in ("top1", "balanced_accuracy", "macro_f1", "loss")]
    assert ours == pytest.approx(
        [
            sklearn.accuracy_score(truth, guess),
            sklearn.balanced_accuracy_score(truth, guess),
            sklearn.f1_score(truth, guess, average="macro"),
            sklearn.log_loss(truth, probabilities),
        ],
        rel=1e-4,
    )
    page = written[1]
    shown = dict(zip(page.texts("dt"), page.texts("dd")))
    assert shown["top-1"] == f"{found['top1']:.2%}"
    assert shown["loss, nats"] == f"{found['loss']:.4f}"
    assert shown["calibration error"] == f"{found['calibration_error']:.2%}"
    cells = [
        int(text or 0)
        for tag, given, text in page.elements
        if tag == "td" and given.get("class") in ("right", "wrong")
    ]
    counts = sklearn.confusion_matrix(truth, guess, labels=range(3))
    assert np.reshape(cells, (3, 3)).tolist() == counts.tolist()
    (rows,) = [it for it in page.tables() if it[0][0] == "class"]
    recall = sklearn.recall_score(truth, guess, average=None, labels=range(3))
    assert {row[0]: row[1] for row in rows[1:]} == {
        name: f"{it:.1%}" for name, it in zip(COLOURS, recall)
    }
    assert {row[3] for row in rows[1:]} == {"12"}  # training images


def test_page_asks_for_nothing(written):
    page = written[1]
    assert "http:" not in page.source.lower()
    assert "https:" not in page.source.lower()
    tags = {tag for tag, _, _ in page.elements}
    assert not tags & {"script", "iframe", "object", "embed", "base", "form"}
    for tag, given, _ in page.elements:
        for name, value in given.items():
            if name in ("src", "srcset", "href", "xlink:href", "data", "action"):
                assert value.startswith(("data:", "#")), (tag, value)
            assert not name.startswith("on")
    assert page.source.count("url(") == page.source.count("url(#")
    assert "@import" not in page.source
    (policy,) = [
        given["content"]
        for tag, given, _ in page.elements
        if given.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_images_are_the_mistakes_and_the_least_certain_answers(
    trained, folder, written, answered
):
    truth, probabilities = answered
    guess, confidence = probabilities.argmax(1), probabilities.max(1)
    wrong = np.flatnonzero(guess != truth)
    mistakes = sorted(wrong, key=lambda it: -confidence[it])[:5]
    doubts = np.argsort(confidence)[:5]
    files = data.open_source(folder).split("val").files
    shown = [given["title"] for tag, given, _ in written[1].elements if tag == "small"]
    expected = [os.path.relpath(files[it], folder) for it in (*mistakes, *doubts)]
    assert shown == expected
    images = [it for tag, it, _ in written[1].elements if tag == "img"]
    assert len(images) == 2 * len(expected)
    assert all(it["src"].startswith("data:image/png;base64,") for it in images)


def test_bins_of_the_calibration_curve_make_up_the_calibration_error():
    drawn = np.random.default_rng(0)
    confidence = drawn.random(500)
    right = drawn.random(500) < confidence**2
    answers = Answers(np.zeros(500, int), np.where(right, 0, 1), confidence)
    mean, accuracy, shares = plots.reliability(answers)
    rows = []
    for low in range(BINS):
        inside = (confidence > low / BINS) & (confidence <= (low + 1) / BINS)
        rows.append((confidence[inside].mean(), right[inside].mean(), inside.mean()))
    np.testing.assert_allclose(np.transpose(rows), [mean, accuracy, shares], atol=1e-12)


def test_intervals_and_p_values_are_those_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    for right, total in ((0, 9), (7, 9), (9, 9), (350, 360)):
        exact = stats.binomtest(right, total).proportion_ci(method="wilson")
        assert facts.interval(right, total) == pytest.approx((exact.low, exact.high))
    for wins, losses in ((0, 0), (1, 0), (10, 1), (7, 7), (40, 1200)):
        total = wins + losses
        expected = stats.binomtest(wins, total).pvalue if total else 1.0
        assert sections.sign_test(wins, losses) == pytest.approx(expected)


def test_survey_finds_copies_formats_sizes_and_counts(own_folder):
    write_picture(
        own_folder / "val" / "red" / "large.jpg", COLOURS["red"], 9, (130, 90)
    )
    for name, to in (("large.jpg", "blue/copy.jpg"), ("000.png", "red/again.png")):
        shutil.copy(own_folder / "val" / "red" / name, own_folder / "train" / to)
    source = data.open_source(own_folder)
    found = survey(source)
    for place, file in enumerate(source.val.files):
        with Image.open(file) as image:
            assert found.short_sides[place] == min(image.size)
            assert found.formats[place] == image.format.lower()
    assert found.train_counts.tolist() == np.bincount(source.train.labels).tolist()
    assert found.copies == [
        Copy("val/red/000.png", "train/red/again.png", True),
        Copy("val/red/large.jpg", "train/blue/copy.jpg", False),
    ]


def test_survey_of_arrays_compares_pixels():
    images = np.random.default_rng(0).integers(0, 256, (6, 9, 8, 3), np.uint8)
    pair = {"train": (images[:4], [0, 1, 0, 1]), "val": (images[3:], [1, 0, 1])}
    found = survey(data.open_source(pair))
    assert [it.val for it in found.copies] == ["picture 0 of the array"]
    assert found.short_sides.tolist() == [8] * 3
    assert found.formats == [""] * 3


@pytest.fixture(scope="module")
def hostile(tiny, tmp_path_factory):
    """A run and data of which every name is an attack."""
    root = tmp_path_factory.mktemp("hostile") / "<img src=x onerror=alert(1)>"
    names = (
        "<script>",
        "\"' onload=alert(1) x='&amp;",
        os.fsdecode(b"caf\xe9`$title`"),
    )
    for split, count in (("train", 3), ("val", 2)):
        for name in names:
            for number in range(count):
                file = root / split / name / f"<script>{number}.png"
                write_picture(file, (40, 80, 160), number)
    recipe = tiny.replace(
        name="<style>*{display:none}", batch_size=3, epochs=1, warmup_epochs=0.0
    )
    train.fit(recipe, root, root / "<b>run")
    return root / "<b>run", root, names


def test_hostile_names_are_text(hostile, written):
    run, root, names = hostile
    page = Page(report.write(run, root)["path"])
    plain = {tag for tag, _, _ in written[1].elements} | {"code"}
    assert {tag for tag, _, _ in page.elements} <= plain
    assert not any(name.startswith("on") for _, it, _ in page.elements for name in it)
    assert page.texts("h1") == ["<b>run"]
    (rows,) = [it for it in page.tables() if it[0][0] == "class"]
    assert {row[0] for row in rows[1:]} == {*names[:2], "caf\\udce9`$title`"}
    page.source.encode()


@pytest.mark.slow
def test_two_runs_stand_beside_each_other(trained, folder, tiny, tmp_path, call):
    other = tmp_path / "other"
    shutil.copytree(trained[0], other)
    recipe = tiny.replace(mixup=0.3).to_dict()
    (other / layout.RECIPE).write_text(json.dumps(recipe))
    done = call("report", trained[0], other, folder, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.err
    result = json.loads(done.out)
    assert result["path"] == str(trained[0] / layout.COMPARISON)
    first, second = result["runs"]
    assert {n: first[n] for n in SINGLE} == {n: second[n] for n in SINGLE}
    page = Page(result["path"])
    os.remove(result["path"])
    tables = {table[0][0]: table for table in reversed(page.tables())}
    assert tables["field"] == [["field", "tiny", "other"], ["mixup", "0.2", "0.3"]]
    assert ["top-1", *[f"{first['top1']:.2%}"] * 2] in tables[""]
    right = round(first["top1"] * 12)
    assert [int(row[1]) for row in tables["recognized by"][1:]] == [
        right,
        0,
        0,
        12 - right,
    ]
    labels = [text.strip() for text in page.texts("text")]
    for label in ("tiny, training", "other, validation"):
        assert labels.count(label) == 2  # of the loss and of top-1
    assert not page.texts("img")


@pytest.mark.slow
def test_run_of_which_the_data_is_gone_shows_what_it_recorded(
    trained, folder, tmp_path, call
):
    run = tmp_path / "run"
    shutil.copytree(trained[0], run)
    recorded = json.loads((run / layout.DATA).read_text())
    gone = {**recorded, "path": str(tmp_path / "gone")}
    (run / layout.DATA).write_text(json.dumps(gone))
    metrics = evaluate.run(trained[1], folder)
    (run / layout.METRICS).write_text(json.dumps(metrics))
    done = call("report", run, cwd=tmp_path)
    assert done.returncode == 0, done.err
    (line,) = done.err.splitlines()
    assert "gone: no such folder" in line
    assert "Give DATA" in line
    page = Page(run / layout.REPORT)
    (note,) = page.texts("p", **{"class": "note"})
    assert "gone" in note
    assert f"{metrics['top1']:.2%}" in page.texts("dd")
    assert len(page.texts("svg")) == 3
    assert not page.texts("img")
    # without the measures, the recipe and the curves are left
    os.remove(run / layout.METRICS)
    (found,) = report.write(run)["runs"]
    assert found["duplicates"] is None
    assert "top1" not in found
    assert Page(run / layout.REPORT).texts("dd") == []
    # with data it is whole
    (found,) = report.write(run, folder)["runs"]
    assert found["top1"] == metrics["top1"]
    assert found["notes"] == []


@pytest.mark.slow
def test_other_data_is_named_in_a_note(trained, own_folder, tmp_path):
    (found,) = report.write(trained[0], own_folder, tmp_path / "r.html")["runs"]
    (note,) = found["notes"]
    assert note.startswith(str(own_folder))
    assert "not the data of this run" in note


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["nothing"], "nothing: contains no recipe.json"),
        (["{run}", "gone"], "gone: no such folder"),
        (["{run}", "{data}", "--out", "gone/r.html"], "a directory that exists"),
    ],
)
def test_what_cannot_be_reported_is_one_line_and_no_file(
    trained, folder, tmp_path, call, words, problem
):
    words = [word.format(run=trained[0], data=folder) for word in words]
    (tmp_path / "nothing").mkdir()
    before = {*trained[0].iterdir()}
    done = call("report", *words, cwd=tmp_path)
    assert done.returncode == 1
    (line,) = done.err.splitlines()
    assert line.startswith("keras-resnet: ")
    assert problem in line
    assert {*trained[0].iterdir()} == before
    assert [it.name for it in tmp_path.iterdir()] == ["nothing"]


def test_too_many_arguments_are_wrong_usage(trained, folder, tmp_path, call):
    done = call("report", trained[0], trained[0], folder, folder, cwd=tmp_path)
    assert done.returncode == 2
    assert "one DATA" in done.err


def test_runs_of_two_tasks_are_not_compared(trained, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    recipe = keras_resnet.RECIPES["transfer"].to_dict()
    (other / layout.RECIPE).write_text(json.dumps(recipe))
    with pytest.raises(RunError, match="compare runs of one task"):
        report.write(trained[0], other=other, out=tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_run_is_not_compared_with_itself(trained, tmp_path):
    with pytest.raises(RunError, match="is the first run itself"):
        report.write(trained[0], other=trained[0], out=tmp_path / "r.html")


def test_data_without_validation_images_is_an_error(trained, own_folder, tmp_path):
    shutil.rmtree(own_folder / "val")
    with pytest.raises(DataError, match="no val pictures"):
        report.write(trained[0], own_folder, tmp_path / "r.html")


def a_run(rows=(), metrics=(), right=None, confidence=None, counts=(), **recipe):
    """Facts by hand: a history of {name: values by epoch}, and what is given."""
    history = [
        {"epoch": 1 + place, **{name: values[place] for name, values in rows}}
        for place in range(len(rows[0][1]) if rows else 0)
    ]
    answers = contents = None
    if right is not None:
        right = np.array(right)
        given = np.full(len(right), 0.9) if confidence is None else confidence
        answers = Answers(np.zeros(len(right), int), np.where(right, 0, 1), given)
    if counts:
        sides = np.array([20] * 100 + [200] * 100)
        kinds = ["jpeg"] * 200
        contents = Contents(sides, kinds, np.array(counts), [])
    recipe = Recipe(mixup=0.0, **recipe)
    every = dict(metrics)
    return Facts(Path("run"), recipe, history, "d", "", [], every, answers, contents)


HALF = [True] * 50 + [False] * 50 + [True] * 100
NAMED = {"per_class": {"a": 0.5, "b": 0.9, "c": 0.9}, "examples": 200, "top1": 0.75}


@pytest.mark.parametrize(
    ("rule", "run", "figures", "calm"),
    [
        (
            advice.overfits,
            a_run([("top1", [0.5, 0.99]), ("val_top1", [0.5, 0.8])]),
            ["99.0%", "80.0%"],
            a_run([("top1", [0.5, 0.85]), ("val_top1", [0.5, 0.8])]),
        ),
        (
            advice.loss_rises,
            a_run([("loss", [2, 1, 0.1]), ("val_loss", [2, 1, 1.5])]),
            ["1.000", "epoch 2", "1.500"],
            a_run([("loss", [2, 1, 1.5]), ("val_loss", [2, 1, 1.5])]),
        ),
        (
            advice.underfits,
            a_run([("top1", [0.5, 0.7]), ("val_top1", [0.5, 0.69])]),
            ["70.0%"],
            a_run([("top1", [0.5, 0.7]), ("val_top1", [0.5, 0.69])], cutmix=1.0),
        ),
        (
            advice.still_improves,
            a_run([("val_top1", [0.1, 0.2, 0.3, 0.4, 0.5])], epochs=7),
            ["10.0 points", "epoch 4 to 5", "--epochs 7"],
            a_run([("val_top1", [0.1, 0.2, 0.3, 0.4999, 0.5])]),
        ),
        (
            advice.average_is_better,
            a_run([("val_top1", [0.8]), ("val_ema_top1", [0.85])]),
            ["85.00%", "80.00%"],
            a_run([("val_top1", [0.8]), ("val_ema_top1", [0.8])]),
        ),
        (
            advice.is_miscalibrated,
            a_run((), {"calibration_error": 0.123}, HALF),
            ["12.3%", "90.0%", "keras-resnet calibrate run"],
            a_run((), {"calibration_error": 0.01}, HALF),
        ),
        (
            advice.few_images,
            a_run((), NAMED, HALF, counts=(3, 100, 90)),
            ["1 of 3 classes has", "90 training images", "a has 3"],
            a_run((), NAMED, HALF, counts=(60, 100, 90)),
        ),
        (
            advice.is_imbalanced,
            a_run((), {"top1": 0.9, "balanced_accuracy": 0.6}),
            ["90.0%", "60.0%"],
            a_run((), {"top1": 0.9, "balanced_accuracy": 0.88}),
        ),
        (
            advice.pair_is_confused,
            a_run(
                (),
                {**NAMED, "confused": [{"true": "a", "predicted": "b", "count": 30}]},
            ),
            ["30 of the 50 mistakes take a for b"],
            a_run(
                (), {**NAMED, "confused": [{"true": "a", "predicted": "b", "count": 9}]}
            ),
        ),
        (
            advice.mistakes_are_sure,
            a_run((), {}, HALF, np.linspace(1, 0.9, 200)),
            ["50 of the 50"],
            a_run((), {}, HALF),
        ),
        (
            advice.slice_is_worse,
            a_run((), NAMED, HALF, counts=(1, 1, 1)),
            ["50.0% on the 100 images", "short side of 16 to 31 pixels", "75.0%"],
            a_run((), NAMED, [True, True, True, False] * 50, counts=(1, 1, 1)),
        ),
    ],
)
def test_rule_speaks_of_its_figure_and_is_calm_otherwise(rule, run, figures, calm):
    text = rule(run)
    assert text is not None
    for figure in figures:
        assert figure in text
    assert rule(calm) is None
    assert rule(a_run()) is None  # nothing is known
    assert rule in advice.RULES


def test_earlier_epoch_is_named_if_its_model_is_there(tmp_path):
    run = a_run([("val_top1", [0.2, 0.9, 0.8])])
    assert advice.best_was_earlier(run) is None
    (tmp_path / layout.BEST).touch()
    text = advice.best_was_earlier(dataclasses.replace(run, run=tmp_path))
    assert "90.00% after epoch 2" in text
    assert "80.00%" in text


def test_copies_are_named_first():
    contents = Contents(np.array([8]), ["png"], np.array([1]), [Copy("a", "b", True)])
    run = dataclasses.replace(a_run((), {"examples": 1}), contents=contents)
    (text,) = advice.advise(run)
    assert text.startswith("1 of the 1 validation images is among")


def test_svg_has_the_page_s_colours_and_literal_names():
    from matplotlib.figure import Figure

    figure = Figure()
    figure.suptitle("$0.1_$ <script>\udce9")
    drawn = svg(figure)
    assert drawn.startswith("<svg")
    assert "&lt;script&gt;\\udce9" in drawn
    assert "#000000" not in drawn
    assert "xmlns" not in drawn
    assert svg(figure) == drawn


def test_all_fields_of_the_recipe_are_in_a_fold(written, tiny):
    differing, every = [it for it in written[1].tables() if it[0][0] == "field"]
    assert [row[0] for row in every[1:]] == list(FIELD_TYPES)
    default = Recipe()
    assert [row[0] for row in differing[1:]] == [
        name for name in FIELD_TYPES if getattr(tiny, name) != getattr(default, name)
    ]
