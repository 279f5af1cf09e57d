"""What a person sees of a training run."""

import io
import re
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from rich.console import Console

from keras_resnet.recipe import Recipe
from keras_resnet.runs.saver import ResumableCallbacks
from keras_resnet.train import build as train_build
from keras_resnet.train import progress
from keras_resnet.train.callbacks import Watch
from keras_resnet.train.progress import TrainingBar


@pytest.fixture
def watched(monkeypatch):
    """(lines that stay, the bar's own output, the callback) of two short epochs."""
    monkeypatch.setattr(progress, "_SECONDS", 0.0)
    out, err = (
        Console(file=io.StringIO(), width=150, force_terminal=kind)
        for kind in (False, True)
    )
    recipe = Recipe(precision="float32", batch_size=8, epochs=2, warmup_epochs=0.0)
    bar = TrainingBar(recipe, out, err)
    optimizer = SimpleNamespace(learning_rate=0.125)
    bar.set_params({"steps": 3})
    bar.set_model(SimpleNamespace(optimizer=optimizer))
    bar.on_train_begin()
    for epoch in range(2):
        bar.on_epoch_begin(epoch)
        for batch in range(3):
            bar.on_train_batch_end(batch, {"loss": 1.25})
        logs = {"loss": 1.5, "top1": 0.25}
        if epoch:  # not every epoch is validated
            logs |= {"val_loss": 0.5, "val_top1": 0.75}
        bar.on_epoch_end(epoch, logs)
    yield out.file.getvalue(), err.file, bar
    bar.on_train_end()


def test_policy_is_printed_once_and_epochs_as_they_end(watched):
    said, drawn, bar = watched
    assert said == "resnet50d, bag-of-tricks: float32\n"
    bar.on_train_end()
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", drawn.getvalue())
    assert "epoch   1: loss 1.5000, top-1 25.00%\n" in text.replace("\r", "")
    assert "held out: loss 0.5000, top-1 75.00%" in text


def test_bar_has_rate_speed_memory_and_all_batches(watched):
    task = watched[2].bar.tasks[0]
    facts = r"rate 0.12, [\d,]+ pictures/s, \d+\.\d GiB"
    assert re.fullmatch(facts, task.fields["facts"])
    assert (task.completed, task.total) == (6, 6)
    assert task.description == "epoch 2/2"


def test_choice_of_precision_is_said(monkeypatch):
    monkeypatch.setattr(
        train_build, "precision_policy", lambda recipe: "mixed_bfloat16"
    )
    out = Console(file=io.StringIO(), width=100)
    bar = TrainingBar(Recipe(), out, Console(file=io.StringIO()))
    bar.set_params({"steps": 3})
    bar.on_train_begin()
    bar.on_train_end()
    assert "mixed_bfloat16, the fastest on this machine" in out.file.getvalue()


def test_off_a_terminal_a_line_comes_now_and_then(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    err = Console(file=io.StringIO(), width=150)
    recipe = Recipe(batch_size=8, epochs=2, warmup_epochs=0.0, accumulate=2)
    bar = TrainingBar(recipe, Console(file=io.StringIO()), err)
    bar.set_params({"steps": 20})
    bar.set_model(SimpleNamespace(optimizer=SimpleNamespace(learning_rate=0.125)))
    bar.on_train_begin()
    bar.on_epoch_begin(1)
    for part in range(20):
        now[0] += 5.0
        bar.on_train_batch_end(part, {"loss": np.float32(1.25)})
    bar.on_train_end()
    lines = err.file.getvalue().splitlines()
    # after 35 and 70 seconds, of which each part of a batch took five
    facts = r"loss 1.2500, rate 0.12, 1 pictures/s, \d+\.\d GiB"
    assert re.fullmatch(rf"epoch   2, step 3 of 10: {facts}", lines[0])
    assert re.fullmatch(rf"epoch   2, step 7 of 10: {facts}", lines[1])
    assert len([line for line in lines if line.strip()]) == 2


class OnDevice:
    """A number that the host waits for, and how often it did."""

    read = 0

    def __float__(self):
        self.read += 1
        return 0.5


def test_numbers_of_a_step_are_read_only_for_a_callback_that_wants_them(tmp_path):
    def step(*more):
        callbacks = ResumableCallbacks(
            [Watch(tmp_path), keras.callbacks.EarlyStopping(), *more],
            model=None,
            first=2,
            metrics={},
            measure=dict,
            steps=20,
        )
        callbacks.on_train_batch_end(0, {"loss": loss})

    loss, seen = OnDevice(), []
    step()
    assert loss.read == 0

    class Wants(keras.callbacks.Callback):
        def on_batch_end(self, batch, logs=None):
            seen.append((batch, logs))

    step(
        Wants(),
        keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: seen.append((batch, logs))
        ),
    )
    assert seen == [(2, {"loss": 0.5})] * 2
    assert loss.read == 1  # for both
