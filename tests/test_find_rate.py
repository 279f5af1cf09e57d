"""A range test finds a rate at which the recipe's loss falls, and leaves no run."""

import json
import math
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from annotated import write_boxes, write_masks
from PIL import Image

from keras_resnet.errors import DataError, RecipeError, RunError
from keras_resnet.train import rates
from keras_resnet.train.rates import find_rate, smooth, suggest
from keras_resnet.train.trainable import Trainable

RATES = np.geomspace(1e-6, 10, 100).tolist()


def sigmoid(place):
    return 1 / (1 + np.exp(-place))


def curve(falls_at, diverges_at=1.0, noise=0.0):
    """A loss that falls from 2.5 to 0.5 at one rate, and rises at a higher one."""
    place = np.log10(RATES)
    loss = 2.5 - 2 * sigmoid(6 * (place - np.log10(falls_at)))
    loss += 10.0 ** (2 * (place - np.log10(diverges_at)))
    return loss + np.random.default_rng(0).normal(0, noise, len(loss))


@pytest.mark.parametrize("falls_at", [1e-3, 1e-2, 0.1])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_suggestion_is_where_the_loss_falls(falls_at, noise):
    found = suggest(RATES, curve(falls_at, noise=noise))
    assert falls_at / 2 < found < falls_at * 2


def test_smoothing_delays_the_suggestion_by_less_than_its_length():
    found = suggest(RATES, smooth(curve(1e-2, noise=0.1)))
    assert 1e-2 < found < 1e-2 * (RATES[10] / RATES[0])


def test_steeper_fall_after_the_minimum_does_not_count():
    loss = curve(1e-3)
    loss[90:] = [50, 40, 30, 20, 10, 9, 8, 7, 6, 5]
    assert 5e-4 < suggest(RATES, loss) < 2e-3


def test_first_batches_do_not_decide():
    loss = curve(1e-2)
    loss[0] += 5
    assert 5e-3 < suggest(RATES, loss) < 2e-2


def test_short_curves_have_a_suggestion():
    for lowest in range(1, 12):
        loss = np.abs(np.arange(12) - lowest)
        assert suggest(RATES[:12], loss) in RATES[: lowest + 1]


def test_nothing_is_suggested_if_the_loss_only_rises():
    assert suggest(RATES, np.linspace(1, 2, 100)) is None


def test_smoothed_loss_is_an_average_without_bias():
    np.testing.assert_allclose(smooth([2.0] * 30), 2.0)
    first, second = smooth([3.0, 1.0])
    assert first == pytest.approx(3)
    weight = 1 / (1 + rates.SMOOTHING)  # of the newer of two
    assert second == pytest.approx(3 * (1 - weight) + weight)


@pytest.fixture(scope="module")
def half(tiny):
    """The tiny recipe in half precision, whose loss is scaled."""
    return tiny.replace(precision="mixed_float16")


@pytest.fixture(scope="module")
def found(half, folder, tmp_path_factory):
    """A test on the tiny folder, in a directory of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("empty"))
        yield find_rate(half, folder, 1e-5, 10.0, 25)


@pytest.fixture
def told(monkeypatch):
    """Makes each step of training return the next of these losses."""
    losses = []

    def train_on_batch(model, images, labels, return_dict):
        told.steps.append((len(images), float(model.optimizer.learning_rate)))
        return {"loss": losses[len(told.steps) - 1]}

    told = SimpleNamespace(losses=losses, steps=[])
    monkeypatch.setattr(Trainable, "train_on_batch", train_on_batch)
    return told


def test_loss_falls_while_the_rate_rises_by_equal_factors(found):
    steps = len(found["rates"])
    assert 10 < steps <= 25
    assert found["rates"][0] == pytest.approx(1e-5)
    factors = [after / before for before, after in pairwise(found["rates"])]
    np.testing.assert_allclose(factors, 1e6 ** (1 / 24))
    assert len(found["losses"]) == len(found["smoothed"]) == steps
    assert np.isfinite(found["losses"]).all()
    assert found["smoothed"] == smooth(found["losses"])
    assert found["suggested"] in found["rates"]
    assert min(found["smoothed"]) < found["smoothed"][0]


@pytest.mark.slow
def test_same_seed_gives_the_same_result_and_no_file(found, half, folder):
    before = sorted(folder.rglob("*"))
    assert find_rate(half, folder, 1e-5, 10.0, 25) == found
    assert list(Path().iterdir()) == []
    assert sorted(folder.rglob("*")) == before


@pytest.mark.slow
def test_step_is_one_of_training_at_its_rate(tiny, folder, monkeypatch):
    """Also with accumulated gradients, whose parts are one step."""
    seen, train_on_batch = [], Trainable.train_on_batch

    def watched(model, images, *args, **options):
        before = model.net.get_layer("head").kernel.numpy()
        result = train_on_batch(model, images, *args, **options)
        change = np.abs(model.net.get_layer("head").kernel.numpy() - before).max()
        seen.append((len(images), float(model.optimizer.learning_rate), change))
        return result

    monkeypatch.setattr(Trainable, "train_on_batch", watched)
    recipe = tiny.replace(accumulate=2, clip_norm=1.0, stage_rates=(0, 0.5, 1))
    found = find_rate(recipe, folder, 1e-5, 1e-2, 10)
    sizes, rates, changes = map(np.array, zip(*seen))
    assert sizes.tolist() == [4] * 20
    np.testing.assert_allclose(rates, np.repeat(found["rates"], 2), rtol=1e-6)
    assert not changes[::2].any()
    assert changes[1::2].all()


def test_base_rate_gives_the_suggestion_at_the_batch_size(found, tiny):
    from keras_resnet.train.objective import optimizer

    recipe = tiny.replace(base_rate=found["base_rate"], warmup_epochs=0.0)
    rate = float(optimizer(recipe, 4).learning_rate)
    assert rate == pytest.approx(found["suggested"])
    assert found["base_rate"] == pytest.approx(found["suggested"] * 256 / 8)


@pytest.mark.parametrize("last", [100.0, math.nan])
def test_divergence_ends_the_test(last, told, tiny, folder):
    told.losses[:] = [3.0, 2.0, 2.0, last]
    found = find_rate(tiny, folder, 1e-3, 1e6)
    assert found["losses"] == [3.0, 2.0, 2.0, 100.0][: 4 if last == 100 else 3]
    assert (
        found["rates"] == np.geomspace(1e-3, 1e6, 100)[: len(found["losses"])].tolist()
    )


@pytest.mark.slow
def test_loss_that_is_never_finite_is_refused(told, tiny, folder):
    told.losses[:] = [math.inf]
    with pytest.raises(RunError, match="the loss is not finite at a rate of 1e-06"):
        find_rate(tiny, folder)


def test_schedule_of_the_recipe_does_not_matter(told, tiny, folder):
    told.losses[:] = [1.0] * 10
    steps = {"schedule": "steps", "warmup_epochs": 1.0, "boundaries": (1, 2)}
    find_rate(tiny.replace(**steps, optimizer="lamb"), folder, steps=10)
    sizes, seen = zip(*told.steps)
    assert set(sizes) == {8}
    np.testing.assert_allclose(seen, np.geomspace(1e-6, 10, 10), rtol=1e-6)


@pytest.mark.slow
def test_bfloat16(tiny, folder):
    recipe = tiny.replace(precision="mixed_bfloat16", optimizer="adamw")
    found = find_rate(recipe, folder, steps=10)
    assert np.isfinite(found["losses"]).all()
    assert found["losses"][0] == pytest.approx(math.log(3), abs=1)


def small(task):
    """Options of a small recipe of a task, for data of `annotated`."""
    return {
        "task": task,
        "model": "resnet18d",
        "overrides": {"width": 8, "depths": [1, 1, 1, 1]},
        "weights": "",
        "stage_rates": (),
        "freeze_statistics": False,
        "train_size": 64,
        "test_size": 64,
        "batch_size": 4,
        "precision": "float32",
    }


@pytest.mark.slow
@pytest.mark.parametrize("task", ["detect", "segment"])
def test_other_tasks(task, tmp_path):
    pytest.importorskip("keras_hub")
    from keras_resnet.recipes import RECIPES

    write = {"detect": write_boxes, "segment": write_masks}[task]
    data = write(tmp_path / "data")
    recipe = RECIPES["transfer"].replace(**small(task))
    found = find_rate(recipe, data, most=1e-3, steps=10)
    assert len(found["losses"]) == 10
    assert np.isfinite(found["losses"]).all()


def test_training_images_are_enough(told, tiny, own_folder):
    told.losses[:] = [1.0] * 10
    shutil.rmtree(own_folder / "val")
    assert len(find_rate(tiny, own_folder, steps=10)["rates"]) == 10


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"least": 1.0, "most": 0.1}, r"least=1, most=0\.1: must be"),
        ({"least": 0.0}, r"least=0, most=10: must be"),
        ({"least": math.nan}, "least=nan"),
        ({"most": math.inf}, "most=inf"),
        ({"steps": 9}, "steps=9: must be 10 or more"),
    ],
)
def test_bad_range_is_refused(options, says, tiny, folder):
    with pytest.raises(RecipeError, match=says):
        find_rate(tiny, folder, **options)


def test_too_few_images_are_refused(tiny, folder):
    with pytest.raises(DataError, match=r"batch_size=64: more than the 36 training"):
        find_rate(tiny.replace(batch_size=64), folder)


@pytest.mark.parametrize("most", [0.05, 10.0])
def test_rates_are_plotted_as_plain_numbers(most, monkeypatch):
    """A decade or less has labels between the powers of ten."""
    monkeypatch.setattr(rates, "png", lambda figure: figure)
    steps = np.geomspace(0.01, most, 20).tolist()
    losses = np.linspace(2, 1, 20).tolist()
    figure = rates.rate_range_plot(
        {"rates": steps, "losses": losses, "smoothed": losses, "suggested": 0.02}
    )
    figure.canvas.draw()
    labels = {text.get_text() for text in figure.axes[0].get_xticklabels(which="both")}
    assert "0.01" in labels
    if most < 0.1:
        assert any(label.startswith("2") for label in labels)
    assert not any("$" in label for label in labels)


def test_command_suggests_and_plots(told, tiny, folder, tmp_path, call):
    (tmp_path / "tiny.json").write_text(json.dumps(tiny.to_dict()))
    told.losses[:] = np.linspace(2, 1, 12)
    words = ["find-rate", folder, "--recipe", "tiny.json", "--steps", 12]
    shown = call(*words, "--batch-size", 4, "--json", cwd=tmp_path)
    assert shown.returncode == 0, shown.err
    result = json.loads(shown.out)
    assert len(result["rates"]) == 12
    assert result["base_rate"] == pytest.approx(result["suggested"] * 64)
    assert result["path"] == "rates.png"
    with Image.open(tmp_path / "rates.png") as image:
        assert image.size[0] > 500
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"tiny.json", "rates.png"}


def test_command_prints_one_line(tiny, folder, tmp_path, call, monkeypatch):
    (tmp_path / "tiny.json").write_text(json.dumps(tiny.to_dict()))
    words = ["find-rate", folder, "--recipe", "tiny.json", "--output", "a.png"]

    def answer(suggested):
        losses = {"rates": [0.1, 1.0], "losses": [2.0, 1.0], "smoothed": [2.0, 1.5]}
        base_rate = suggested and suggested * 32
        return {**losses, "suggested": suggested, "base_rate": base_rate}

    monkeypatch.setattr(rates, "find_rate", lambda *_: answer(0.1))
    line = "base_rate 3.2 (a rate of 0.1 at batch_size 8); a.png shows the loss over "
    assert call(*words, cwd=tmp_path).out == f"{line}the rate\n"
    monkeypatch.setattr(rates, "find_rate", lambda *_: answer(None))
    assert "the loss did not fall at any rate" in call(*words, cwd=tmp_path).out


def test_command_refuses_in_one_line(tiny, folder, tmp_path, call):
    (tmp_path / "tiny.json").write_text(json.dumps(tiny.to_dict()))
    words = ["find-rate", folder, "--recipe", "tiny.json"]
    for more, says in {
        ("--least", "2", "--most", "1"): "least=2, most=1: must be",
        ("--steps", "3"): "steps=3: must be 10 or more",
        ("--batch-size", "64"): "batch_size=64: more than the 36 training pictures",
    }.items():
        done = call(*words, *more, cwd=tmp_path)
        assert done.returncode == 1
        assert says in done.err
        assert done.err.count("\n") == 1
    done = call(*words, "--output", "none/a.png", cwd=tmp_path)
    assert done.returncode == 2
    assert "'none/a.png': its directory does not exist" in done.err
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.json"}


def test_interruption_ends_it(tiny, folder, tmp_path, call, monkeypatch):
    (tmp_path / "tiny.json").write_text(json.dumps(tiny.to_dict()))

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(rates, "build", interrupted)
    done = call("find-rate", folder, "--recipe", "tiny.json", cwd=tmp_path)
    assert done.returncode == 75
    assert done.err.splitlines()[-1].startswith("keras-resnet: interrupted; ")
    assert not (tmp_path / "rates.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_jax_finds_it_too(precision, found, tiny, folder, tmp_path):
    recipe = tiny.replace(precision=precision)
    (tmp_path / "tiny.json").write_text(json.dumps(recipe.to_dict()))
    words = [Path(sys.executable).with_name("keras-resnet"), "find-rate", folder]
    words += ["--recipe", "tiny.json", "--least", 1e-5, "--steps", 25, "--json"]
    done = subprocess.run(
        [str(word) for word in words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    assert result["rates"][:10] == found["rates"][:10]
    assert result["suggested"] in result["rates"]
    assert min(result["smoothed"]) < result["smoothed"][0]
