"""What a person sees of a training run."""

import io
import re
from types import SimpleNamespace

import pytest
from rich.console import Console

from keras_resnet import learner, progress
from keras_resnet.progress import TrainingBar
from keras_resnet.recipe import Recipe


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
            bar.on_train_batch_end(batch)
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


def test_log_without_a_terminal_has_a_line_every_so_often(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    out, err = (Console(file=io.StringIO(), width=150) for _ in range(2))
    recipe = Recipe(precision="float32", batch_size=8, epochs=1, warmup_epochs=0.0)
    bar = TrainingBar(recipe, out, err)
    bar.set_params({"steps": 5000})
    optimizer = SimpleNamespace(learning_rate=0.125)
    bar.set_model(SimpleNamespace(optimizer=optimizer))
    bar.on_train_begin()
    bar.on_epoch_begin(0)
    for batch in range(2400):
        now[0] += 0.0625
        bar.on_train_batch_end(batch, {"loss": 1.25, "top1": 0.5})
    bar.on_train_end()
    lines = err.file.getvalue().split("\n")[:-2]  # rich ends with an empty one
    facts = r"loss 1.2500, rate 0.12, 128 pictures/s, \d+\.\d GiB"
    assert len(lines) == 2  # of 150 seconds
    for line, step in zip(lines, ("961", "1,922"), strict=True):
        assert re.fullmatch(rf"epoch   1: step {step} of 5,000, {facts}", line)


def test_choice_of_precision_is_said(monkeypatch):
    monkeypatch.setattr(learner, "precision_policy", lambda recipe: "mixed_bfloat16")
    out = Console(file=io.StringIO(), width=100)
    bar = TrainingBar(Recipe(), out, Console(file=io.StringIO()))
    bar.set_params({"steps": 3})
    bar.on_train_begin()
    bar.on_train_end()
    assert "mixed_bfloat16, as this machine is fastest" in out.file.getvalue()
