"""Runs that are killed, starved and damaged go on to the very same result."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import resume_program
from resume_program import INTERRUPTED, PICTURES, RECIPE, STEPS, Moment
from runs import differing, final, history, stop, wait_for

from keras_resnet import train
from keras_resnet.errors import RunError
from keras_resnet.runs import checkpoints, layout, process
from keras_resnet.runs.checkpoints import Place
from keras_resnet.train import training

COMMAND = Path(sys.executable).with_name("keras-resnet")
PROGRAM = Path(__file__).with_name("resume_program.py")


def at(hook, epoch, batch=0, **more):
    return {"at": [hook, epoch, batch], **more}


# in the order of a run; each life begins where the one before has left the directory
LIVES = {
    "first step": at("batch begin", 0, 0),
    "mid-epoch": at("batch begin", 0, 2),
    "last step of an epoch": at("batch end", 0, 3),
    "evaluation": at("evaluation", 0, 1),
    "first step after an epoch": at("batch begin", 1, 0),
    "middle of the second epoch": at("batch begin", 1, 2),
    "a save, its arrays not written": {"save": ["savez", 0, True]},
    "a save, its arrays not flushed": {"save": ["fsync", 0, True]},
    "a save, its manifest not flushed": {"save": ["fsync", 1, True]},
    "a save, not renamed": {"save": ["rename", 0, True]},
    "a save, just renamed": {"save": ["rename", 0, False]},
    "the last evaluation": at("evaluation", 2, 0),
    "before the model is written": at("train end", 2),
}
SOME = ["mid-epoch", "middle of the second epoch", "a save, not renamed"]


@pytest.fixture(scope="module")
def file(tmp_path_factory, data):
    """The pictures, for another process."""
    path = tmp_path_factory.mktemp("data") / "pictures.npz"
    arrays = {}
    for split, (images, labels) in data.items():
        arrays |= {f"{split}_images": images, f"{split}_labels": labels}
    np.savez(path, **arrays)
    return path


def live(backend="tensorflow", **spec):
    """A process of its own, to its end: (exit status, stderr)."""
    done = subprocess.run(
        [sys.executable, PROGRAM, json.dumps(spec)],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        timeout=200,
    )
    return done.returncode, done.stderr


def read_log(path):
    """{(epoch, batch): the numbers of its pictures}, and how many lines there were."""
    seen, lines = {}, path.read_text().splitlines()
    for epoch, batch, numbers in map(json.loads, lines):
        # a batch that is trained on again is the same
        assert seen.setdefault((epoch, batch), numbers) == numbers
    return seen, len(lines)


def chain(file, folder, lives, backend="tensorflow", **spec):
    """Trains folder/peace undisturbed, and folder/fire, which is killed so often."""
    spec |= {"data": str(file)}
    peace, fire = (
        spec | {"run": f"{folder}/{name}", "log": f"{folder}/{name}.log"}
        for name in ("peace", "fire")
    )
    for life in lives:
        code, said = live(backend, **fire, **life)
        assert code == -signal.SIGKILL, (life, said)
    for last in (fire, peace):
        if backend == keras.backend.backend():
            resume_program.main(last)
            continue
        code, said = live(backend, **last)
        assert code == 0, said


def assert_same(folder):
    peace, fire = folder / "peace", folder / "fire"
    theirs = final(peace)
    assert differing(final(fire), theirs) == []
    names = {name.split("/")[0] for name in theirs}
    assert names == {
        *["model", "optimizer", "metric", "model.keras", "model_ema.keras"],
        *["history.json", "log.csv"],
    }
    assert {p.name for p in peace.iterdir()} == {p.name for p in fire.iterdir()}
    hidden = [path for path in fire.rglob("*") if path.name.startswith(".")]
    assert hidden == []


@pytest.fixture(scope="module")
def killed(file, tmp_path_factory):
    """The folder of a float32 run in peace, and of one killed at many moments."""
    folder = tmp_path_factory.mktemp("killed")
    first = folder / "fire" / layout.CHECKPOINTS / str(Place(0, 2))
    lives = [
        at("batch begin", 0, 3, until=str(first)),  # its third batch is lost
        LIVES["a save, not renamed"],
    ]
    chain(file, folder, lives, saves={"checkpoint_steps": 2})
    return folder


@pytest.mark.slow
def test_run_killed_again_and_again_equals_the_uninterrupted_one(killed):
    assert_same(killed)


@pytest.mark.slow
def test_every_picture_is_seen_once_an_epoch_whatever_was_killed(killed):
    (ours, lives), (theirs, once) = (
        read_log(killed / f"{name}.log") for name in ("fire", "peace")
    )
    assert ours == theirs
    assert once == len(ours) == RECIPE.epochs * STEPS
    assert lives > once  # some batches were lost and made again
    lines = (killed / "fire.log").read_text().splitlines()
    steps = [tuple(json.loads(line)[:2]) for line in lines]
    begun = {
        step
        for before, step in itertools.pairwise(steps)
        if step not in ((before[0], before[1] + 1), (before[0] + 1, 0))
    }
    assert any(batch for _, batch in begun)  # and some lives began within an epoch
    orders = []
    for epoch in range(RECIPE.epochs):
        order = [n for batch in range(STEPS) for n in ours[epoch, batch]]
        assert sorted(order) == list(range(PICTURES["train"]))
        orders.append(order)
    assert orders[0] != orders[1] != orders[2]


@pytest.mark.parametrize(
    ("precision", "lives"),
    [
        pytest.param("mixed_bfloat16", SOME[1:2], marks=pytest.mark.slow),
        pytest.param("mixed_float16", SOME[1:], marks=pytest.mark.slow),
    ],
)
def test_killed_run_of_half_precision_equals_the_uninterrupted_one(
    precision, lives, file, data, tmp_path
):
    fields = {"precision": precision}
    for name in lives:
        spec = {"data": str(file), "run": str(tmp_path / "fire"), "recipe": fields}
        code, said = live(**spec, **LIVES[name])
        assert code == -signal.SIGKILL, (name, said)
    assert checkpoints.places(tmp_path / "fire")
    for name in ("fire", "peace"):
        train.fit(RECIPE.replace(**fields), data, tmp_path / name)
    assert_same(tmp_path)
    facts = checkpoints.newest(tmp_path / "fire")[0].facts
    assert facts["precision"] == precision


@pytest.mark.slow
@pytest.mark.parametrize("steps", [2, 3])
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_killed_at_every_moment_equals_the_uninterrupted_one(
    precision, steps, file, tmp_path
):
    saves = {"checkpoint_steps": steps}
    chain(file, tmp_path, LIVES.values(), recipe={"precision": precision}, saves=saves)
    assert_same(tmp_path)
    assert read_log(tmp_path / "fire.log")[0] == read_log(tmp_path / "peace.log")[0]


_ON_JAX = """
import sys
from pathlib import Path
import keras, numpy as np
from keras_resnet.recipe import Recipe
from keras_resnet.runs import checkpoints
from keras_resnet.runs.process import Stop
from keras_resnet.runs.saver import Saver, Saving, restore
from keras_resnet.train.trainable import Trainable

def small():
    net = keras.Sequential([keras.Input([4]), keras.layers.Dense(3)])
    model = Trainable(net, ema=0.5)
    model.compile(keras.optimizers.SGD(0.1), "mse", metrics=["mae"])
    model.optimizer.build(model.trainable_variables)
    return model

run, model, x = Path(sys.argv[1]), small(), np.eye(4, dtype=np.float32)
run.mkdir()
saver = Saver(run, Recipe(), 4, [], {}, Stop(), Saving(steps=1, keep=9))
class Wait(keras.callbacks.Callback):  # else one that is written leaves out the next
    def on_train_batch_end(self, batch, logs=None):
        saver.wait()

every = [saver, Wait()]
model.fit(x, x[:, :3], batch_size=1, verbose=0, callbacks=every, shuffle=False)
kernels = []
for place in checkpoints.places(run):
    again = small()
    restore(again, checkpoints.read(checkpoints.path_of(run, place)))
    kernels.append(np.asarray(again.net.layers[0].kernel))
    print(keras.backend.backend(), *place, int(again.optimizer.iterations))
np.testing.assert_array_equal(kernels[-1], model.net.layers[0].kernel)
np.testing.assert_array_equal(again.averages[0], model.averages[0])
assert len(set(kernel.tobytes() for kernel in kernels)) == len(kernels)
"""


@pytest.mark.slow
def test_checkpoints_on_jax_hold_what_the_step_made(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _ON_JAX, tmp_path / "run"],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    places = [f"jax 0 {batch} {batch}" for batch in (1, 2, 3)]
    assert done.stdout.splitlines() == [*places, "jax 1 0 4"]


@pytest.mark.slow
def test_killed_run_on_jax_equals_the_uninterrupted_one(file, tmp_path):
    names = [SOME[0], "evaluation", *SOME[1:]]
    chain(file, tmp_path, [LIVES[name] for name in names], backend="jax")
    assert_same(tmp_path)


@pytest.mark.slow
def test_signals_write_a_checkpoint_within_a_step_and_it_goes_on(data, peace, tmp_path):
    for *moment, number, written in [
        ("batch begin", 0, 0, signal.SIGTERM, (0, 1)),
        ("batch begin", 1, 1, signal.SIGINT, (1, 2)),
        ("batch end", 1, 2, signal.SIGTERM, (1, 4)),  # its checkpoint's turn is over
        ("evaluation", 1, 0, signal.SIGTERM, (1, 4)),
        ("evaluation", 1, 1, signal.SIGINT, (1, 4)),
        ("epoch end", 1, 0, signal.SIGTERM, (2, 1)),
        ("evaluation", 2, 1, signal.SIGTERM, (2, 4)),
    ]:
        assert stop(data, tmp_path / "run", moment, number) == written
    train.fit(RECIPE, data, tmp_path / "run")
    assert differing(final(tmp_path / "run"), peace) == []


@pytest.fixture(scope="module")
def half(data, tmp_path_factory):
    """A run that was stopped in the middle."""
    run = tmp_path_factory.mktemp("half") / "run"
    stop(data, run, ("batch begin", 1, 1))
    return run


def spoil_metrics(checkpoint):
    for name in checkpoint.arrays:
        if name.startswith("metric"):
            checkpoint.arrays[name] = np.zeros_like(checkpoint.arrays[name])
    return checkpoint


def spoil_seeds(checkpoint):
    seeds = [
        name
        for name, array in checkpoint.arrays.items()
        if name.startswith("model/")
        and array.dtype.kind in "iu"
        and array.shape == (2,)
    ]
    assert len(seeds) > 1
    for name in seeds:
        checkpoint.arrays[name] += 1
    return checkpoint


def spoil_step(checkpoint):
    epoch, batch = checkpoint.place
    return checkpoints.Checkpoint(
        Place(epoch, batch + 1), checkpoint.arrays, checkpoint.facts
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "group"),
    [
        (spoil_metrics, "history.json"),
        pytest.param(spoil_seeds, "model", marks=pytest.mark.slow),
        pytest.param(spoil_step, "optimizer", marks=pytest.mark.slow),
    ],
)
def test_resuming_without_all_of_the_state_gives_another_result(
    spoil, group, half, data, peace, tmp_path, monkeypatch
):
    run = shutil.copytree(half, tmp_path / "run")
    newest = training.newest

    def spoiled(run):
        checkpoint, rejected = newest(run)
        return spoil(checkpoint), rejected

    monkeypatch.setattr(training, "newest", spoiled)
    train.fit(RECIPE, data, run)
    wrong = {name.split("/")[0] for name in differing(final(run), peace)}
    assert group in wrong


class Numbers(keras.callbacks.Callback):
    """After each step: the rate, the loss scale, and the moving averages."""

    def on_train_begin(self, logs=None):
        self.seen = {}

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        optimizer = self.model.optimizer
        self.seen[self.epoch, batch] = [
            np.asarray(optimizer.learning_rate),
            np.asarray(optimizer.dynamic_scale),
            np.asarray(optimizer.iterations),
            *[a.numpy() for a in self.model.averages],
        ]


@pytest.mark.slow
def test_next_step_has_the_rate_scale_and_average_of_the_uninterrupted(data, tmp_path):
    recipe = RECIPE.replace(precision="mixed_float16")
    whole, cut, again = Numbers(), Numbers(), Numbers()
    train.fit(recipe, data, tmp_path / "whole", None, [whole])
    stopped = Moment("batch begin", 1, 1, signal.SIGTERM)
    with pytest.raises(train.Interrupted):
        train.fit(recipe, data, tmp_path / "cut", None, [cut, stopped])
    train.fit(recipe, data, tmp_path / "cut", None, [again])
    assert min(again.seen) == (1, 2)
    for step in [(1, 2), (1, 3), (2, 0)]:
        for ours, theirs in zip(again.seen[step], whole.seen[step], strict=True):
            np.testing.assert_array_equal(ours, theirs)
    rates = [float(numbers[0]) for numbers in whole.seen.values()]
    assert len(set(rates)) > STEPS  # it warms up and falls: no constant is compared


@pytest.mark.slow
def test_everything_that_counts_batches_in_its_own_way_resumes(data, tmp_path):
    recipe = RECIPE.replace(accumulate=2, repeats=2, cutmix=1.0, validate_every=2)
    train.fit(recipe, data, tmp_path / "whole")
    run = tmp_path / "cut"
    # 8 parts an epoch, of 4 batches; 1.5 batches are done when it is told
    assert stop(data, run, ("batch end", 0, 2), recipe=recipe) == (0, 2)
    # the last batch of an epoch without evaluation
    assert stop(data, run, ("batch begin", 0, 7), recipe=recipe) == (0, 4)
    assert stop(data, run, ("batch begin", 1, 5), recipe=recipe) == (1, 3)
    assert stop(data, run, ("evaluation", 1, 1), recipe=recipe) == (1, 4)
    train.fit(recipe, data, run)
    assert differing(final(run), final(tmp_path / "whole")) == []
    assert ["val_loss" in row for row in history(run)] == [False, True, True]


TINY = (
    "--model resnet18d --precision float32 --train-size 32 --test-size 32 "
    "--batch-size 8 --epochs 2 --base-rate 0.5 --warmup-epochs 1 --checkpoint-steps 1"
)


NET = "{width: 8, depths: [1]}"


def command(folder, run):
    return subprocess.Popen(
        [COMMAND, "train", folder, run, *TINY.split(), "--overrides", NET],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_command_is_alone_stops_with_code_75_and_goes_on(folder, tiny, tmp_path):
    run = tmp_path / "run"
    first = command(folder, run)
    try:
        wait_for((run / layout.RECIPE).exists)
        first.send_signal(signal.SIGSTOP)  # before it has traced a step
        recipe = type(tiny).read(run / layout.RECIPE)
        words = f"is being trained by process {first.pid} on"
        with pytest.raises(RunError, match=words):
            train.fit(recipe, folder, run)
        first.send_signal(signal.SIGTERM)  # which it meets when it goes on
        first.send_signal(signal.SIGCONT)
        _, said = first.communicate(timeout=600)
    finally:
        first.kill()
    assert first.returncode == INTERRUPTED, said
    words = f"{run}: stopped by SIGTERM; checkpoint {checkpoints.places(run)[-1]} was "
    assert words in said.replace("\n", " ")
    assert process.holder(run) is None
    train.fit(recipe, folder, run)
    assert len(history(run)) == 2


@pytest.mark.slow
def test_second_signal_ends_the_command_at_once(folder, tmp_path):
    run = tmp_path / "run"
    running = command(folder, run)
    try:
        wait_for((run / layout.LOCK).exists)  # it builds and compiles for seconds
        while running.poll() is None:
            running.send_signal(signal.SIGTERM)
            time.sleep(0.1)
        assert running.returncode == -signal.SIGTERM
    finally:
        running.kill()
        running.communicate()
    assert checkpoints.places(run) == []
    assert process.holder(run) is None
