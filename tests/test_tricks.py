"""Whole runs with the tricks that need one: average, plateau, parts, logs, watch."""

import csv
import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from resume_program import RECIPE, pictures
from runs import Stop, assert_same_variables, differing, final, stop

import keras_resnet
from keras_resnet import data, evaluate, train
from keras_resnet.data.splits import Arrays
from keras_resnet.errors import RecipeError, RunError
from keras_resnet.opening import open_model
from keras_resnet.runs import layout
from keras_resnet.train import build as train_build
from keras_resnet.train.callbacks import Watch
from keras_resnet.train.trainable import Trainable


@pytest.fixture(scope="module")
def quick(tiny):
    """As tiny, with nothing that is not under test."""
    return tiny.replace(
        mixup=0.0,
        flip=0.0,
        min_area=1.0,
        colour=0.0,
        lighting=0.0,
        overrides={"width": 8, "depths": [1, 1]},
        base_rate=0.5,
    )


def rows(run):
    return json.loads((run / "history.json").read_text())


@pytest.mark.slow
def test_everything_at_once_resumes_to_the_very_same_result(
    trained, folder, tiny, tmp_path
):
    recipe = tiny.replace(
        teacher=str(trained[0]),
        temperature=5.0,
        ema=0.9,
        accumulate=2,
        repeats=2,
        cutmix=1.0,
        optimizer="lamb",
        base_rate=0.3,
        final_rate=0.001,
        loss="binary-cross-entropy",
        binary_threshold=0.2,
        stage_rates=[0.5, 1, 1],
        validate_every=2,
    )
    whole = train.fit(recipe, folder, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train.fit(recipe, folder, tmp_path / "cut", Stop(2, 3))
    assert len(rows(tmp_path / "cut")) == 2
    assert_same_variables(train.fit(recipe, folder, tmp_path / "cut"), whole)
    both = [tmp_path / name / layout.AVERAGE for name in ("whole", "cut")]
    assert_same_variables(*map(open_model, both))
    assert rows(tmp_path / "whole") == rows(tmp_path / "cut")
    names = [sorted(row) for row in rows(tmp_path / "whole")]
    assert ["val_top1" in row for row in names] == [False, True, True]


@pytest.mark.slow
def test_average_is_a_model_of_its_own(quick, folder, tmp_path):
    model = train.fit(quick.replace(ema=0.8), folder, tmp_path / "run")
    average = open_model(tmp_path / "run" / layout.AVERAGE)
    assert average.info == model.info
    far = [
        np.abs(ours.numpy() - theirs.numpy()).max()
        for ours, theirs in zip(average.weights, model.weights)
    ]
    assert np.mean(np.array(far) > 0) > 0.9
    assert evaluate.run(average, folder)["examples"] == 12
    plain = train.fit(quick, folder, tmp_path / "plain")
    assert_same_variables(plain, model)  # the average is beside the run
    assert not (tmp_path / "plain" / layout.AVERAGE).exists()


@pytest.mark.slow
def test_rate_falls_on_a_plateau_and_a_resumed_run_counts_on(quick, folder, tmp_path):
    recipe = quick.replace(
        schedule="plateau",
        warmup_epochs=0.0,
        patience=1,
        epochs=5,
        base_rate=1e-3,  # learns nothing: every epoch is a plateau
    )
    rate = 1e-3 * 8 / 256
    whole = train.fit(recipe, folder, tmp_path / "whole")
    history = rows(tmp_path / "whole")
    best, drops = -1.0, 0
    for row in history:
        drops += row["val_top1"] <= best
        best = max(best, row["val_top1"])
        assert row["rate"] == pytest.approx(rate / 10**drops)
    assert drops > 1
    with pytest.raises(KeyboardInterrupt):
        train.fit(recipe, folder, tmp_path / "cut", Stop(3, 1))
    assert_same_variables(train.fit(recipe, folder, tmp_path / "cut"), whole)
    assert rows(tmp_path / "cut") == history


@pytest.mark.slow
def test_a_batch_in_parts_takes_the_step_of_the_whole(quick, folder, tmp_path):
    # no batch statistics, which see a part alone; the rest is linear
    recipe = quick.replace(freeze_statistics=True, epochs=2, base_rate=0.05)
    whole = train.fit(recipe, folder, tmp_path / "whole")
    parts = train.fit(recipe.replace(accumulate=4), folder, tmp_path / "parts")
    for ours, theirs in zip(parts.weights, whole.weights):
        np.testing.assert_allclose(
            ours.numpy(), theirs.numpy(), rtol=1e-3, atol=1e-5, err_msg=ours.path
        )
    a, b = (rows(tmp_path / name) for name in ("whole", "parts"))
    assert [row["rate"] for row in a] == [row["rate"] for row in b]


@pytest.mark.slow
def test_choice_of_precision_is_printed_where_no_bar_says_it(
    quick, folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(train_build, "precision_policy", lambda recipe: "float32")
    recipe = quick.replace(epochs=1, warmup_epochs=0.0, precision="auto")
    train.fit(recipe, folder, tmp_path / "run")
    expected = "resnet18d, tiny: float32, the fastest on this machine\n"
    assert capsys.readouterr().out == expected
    train.fit(recipe, folder, tmp_path / "run")  # nothing is trained
    silent = keras.callbacks.Callback()
    train.fit(recipe, folder, tmp_path / "other", silent)
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_logs_say_what_the_history_says(quick, folder, tmp_path):
    seen = []
    log = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, _: seen.append(epoch)
    )
    recipe = quick.replace(epochs=2)
    train.fit(recipe, folder, tmp_path / "run", callbacks=[log])
    assert seen == [0, 1]
    history = rows(tmp_path / "run")
    with open(tmp_path / "run" / "log.csv", newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [{k: float(v) for k, v in row.items()} for row in table] == history
    events = {}
    for file in (tmp_path / "run" / "tensorboard").iterdir():
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                events[event.step, value.tag] = value.simple_value
    for row in history:
        for name, tag in (
            ("loss", "loss/train"),
            ("val_loss", "loss/validation"),
            ("val_top1", "top1/validation"),
            ("rate", "rate/train"),
        ):
            assert events[row["epoch"], tag] == pytest.approx(row[name], rel=1e-6)


@pytest.mark.slow
def test_run_without_a_finite_loss_stops_with_step_rate_and_scale(
    quick, folder, tmp_path
):
    recipe = quick.replace(base_rate=1e20, warmup_epochs=0.0, epochs=30)
    words = r"at step 4, after 1 epochs; rate 3.1\de\+18, loss scale none.*smaller b"
    with pytest.raises(RunError, match=words):
        train.fit(recipe, folder, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()
    long = {
        "train": (np.zeros((400, 32, 32, 3), np.uint8), np.arange(400) % 3),
        "val": (np.zeros((3, 32, 32, 3), np.uint8), np.arange(3)),
    }
    with pytest.raises(
        RunError,
        match=r"run2: stopped at step \d+: the loss has not been finite for \d+ steps; "
        r"rate 3.1\de\+18, loss scale none.*smaller base_rate",
    ):
        train.fit(recipe, long, tmp_path / "run2")
    assert not (tmp_path / "run2" / "checkpoints").exists()


@pytest.mark.slow
def test_streak_of_overflows_in_float16_stops_with_the_scale(quick, folder, tmp_path):
    class Overflow(keras.callbacks.Callback):
        """Makes every first convolution give more than float16 has."""

        def on_train_begin(self, logs=None):
            kernel = self.model.net.get_layer("stem").conv1.conv.kernel
            kernel.assign(np.full(kernel.shape, 6e4))

    recipe = quick.replace(precision="mixed_float16", epochs=20)
    with pytest.raises(
        RunError,
        match=r"stopped at step \d+: the loss has not been finite for \d+ steps; "
        r"rate .*, loss scale \d.*precision=float32",
    ):
        train.fit(recipe, folder, tmp_path / "run", callbacks=[Overflow()])


@pytest.mark.parametrize(("scale", "stops"), [(2.0**-4, False), (2.0**-5, True)])
def test_gradients_alone_that_overflow_stop_the_run(scale, stops):
    optimizer = SimpleNamespace(
        dynamic_scale=scale, initial_scale=2.0**15, learning_rate=0.25
    )
    watch = Watch("there")
    watch.set_params({"steps": 30})
    watch.set_model(SimpleNamespace(bad_steps=0, optimizer=optimizer))
    watch.on_epoch_begin(2)
    watch.on_train_batch_end(8)  # not looked at
    words = r"step 70: the gradients overflowed 20 times; rate 0.25, loss scale 0.0312"
    with pytest.raises(RunError, match=words) if stops else nullcontext():
        watch.on_train_batch_end(9)


def test_repeats_come_one_after_the_other_in_every_epoch(quick):
    images = np.arange(20, dtype=np.uint8)[:, None, None, None] * np.ones(
        (1, 32, 32, 3), np.uint8
    )
    source = {"train": (images, np.arange(20) % 5)}
    recipe = quick.replace(batch_size=6, repeats=3, flip=0.0)
    assert data.steps_per_epoch(source, recipe) == 3
    seen = []
    for batch, _ in data.train_batches(source, recipe).take(6):
        numbers = batch.numpy()[:, 0, 0, 0].reshape(2, 3)
        assert (numbers == numbers[:, :1]).all()
        seen.append(numbers[:, 0])
    first, second = np.concatenate(seen[:3]), np.concatenate(seen[3:])
    assert len({*first}) == len({*second}) == 6
    assert {*first} != {*second}
    assert Arrays(images, np.arange(20)).size == 20


def test_repeats_are_augmented_each_anew(quick):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    recipe = quick.replace(batch_size=4, repeats=2, min_area=0.3)
    source = {"train": (images, np.arange(4))}
    batch, labels = next(iter(data.train_batches(source, recipe)))
    assert (labels.numpy()[0] == labels.numpy()[1]).all()
    assert (batch.numpy()[0] != batch.numpy()[1]).any()


@pytest.mark.slow
def test_model_that_was_trained_in_float16_and_reloaded_is_trained_on_with_its_scale(
    quick, folder, tmp_path
):
    train.fit(
        quick.replace(precision="mixed_float16", epochs=2), folder, tmp_path / "r"
    )
    again = keras.models.load_model(tmp_path / "r" / "model.keras")
    assert keras.config.dtype_policy().name == "float32"
    again.compile("sgd", "categorical_crossentropy")
    assert isinstance(again.optimizer, keras.optimizers.LossScaleOptimizer)
    ours = open_model(tmp_path / "r")
    ours.compile(keras_resnet.optimizers.CoupledSGD(0.1), "categorical_crossentropy")
    assert isinstance(ours.optimizer, keras.optimizers.LossScaleOptimizer)


JAX = """
import sys; sys.path.insert(0, sys.argv[1])
from pathlib import Path
import keras, numpy as np
from keras_resnet import evaluate, train
from keras_resnet.recipes import RECIPES
from runs import Stop, assert_same_variables

random, run = np.random.default_rng(0), Path(sys.argv[2])
labels = np.arange(48) % 3
images = random.normal(0, 10, (48, 32, 32, 3)) + 60 + 60 * labels[:, None, None, None]
images = images.clip(0, 255).astype(np.uint8)
data = {"train": (images[:36], labels[:36]), "val": (images[36:], labels[36:])}
recipe = RECIPES["smoke"].replace(
    overrides={"width": 8, "depths": [1]},
    epochs=3,
    ema=0.5,
    accumulate=2,
    schedule="plateau",
    patience=1,
    stage_rates=[0.5, 1],
    initializer="xavier",
    progressive_sizes=[24],
    sampling="balanced",
    class_weights={"1": 2},
)
silent = keras.callbacks.Callback()
whole = train.fit(recipe, data, run / "whole", silent)
assert evaluate.run(whole, data)["examples"] == 12
try:
    train.fit(recipe, data, run / "cut", Stop(2, 1))
except KeyboardInterrupt:
    assert (run / "cut" / "checkpoints").exists()
assert_same_variables(train.fit(recipe, data, run / "cut", silent), whole)
texts = [(run / name / "history.json").read_text() for name in ("whole", "cut")]
assert texts[0] == texts[1]
print(keras.backend.backend(), texts[0])
"""


@pytest.mark.slow  # JAX compiles for most of a minute
def test_jax_trains_resumes_and_lowers_its_rate(tmp_path):
    (tmp_path / "run.py").write_text(JAX)
    done = subprocess.run(
        [sys.executable, tmp_path / "run.py", Path(__file__).parent, tmp_path],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "jax"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    backend, _, history = done.stdout.strip().partition(" ")
    assert backend == "jax"
    rates = [row["rate"] for row in json.loads(history)]
    assert max(rates) == pytest.approx(0.2 * 8 / 256)
    assert min(rates) < max(rates) / 5


@pytest.fixture
def traced(monkeypatch):
    """The sides of the images that training steps are traced for, in order."""
    sides, call = [], Trainable.call

    def noted(self, images, training=None):
        if training:
            sides.append(images.shape[1])
        return call(self, images, training)

    monkeypatch.setattr(Trainable, "call", noted)
    return sides


@pytest.mark.slow
def test_images_grow_with_the_epochs_and_a_resumed_run_goes_on(traced, tmp_path):
    recipe = RECIPE.replace(progressive_sizes=[24])
    assert [recipe.size_in(epoch) for epoch in range(3)] == [24, 24, 32]
    train.fit(recipe, pictures(), tmp_path / "whole")
    assert traced == [24, 32]  # one step for each size
    stop(pictures(), tmp_path / "cut", ("batch end", 2, 1), recipe=recipe)
    train.fit(recipe, pictures(), tmp_path / "cut")
    assert traced[2:] == [24, 32, 32]
    assert differing(final(tmp_path / "whole"), final(tmp_path / "cut")) == []


@pytest.mark.parametrize("sizes", [[32], [24, 16], [16, 16], [0], [8, 16, 24]])
def test_sizes_that_do_not_rise_to_the_last_are_refused(sizes):
    with pytest.raises(RecipeError, match=r"progressive_sizes=.*must be empty"):
        RECIPE.replace(progressive_sizes=sizes)
