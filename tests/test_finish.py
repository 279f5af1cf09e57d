"""How runs end: early, of the best epoch, without what they began from."""

import contextlib
import json
import shutil
import signal

import keras
import pytest
from resume_program import RECIPE, STEPS, Moment
from runs import Stop, assert_same_variables, differing, final, history

import keras_resnet
from keras_resnet import evaluate, train
from keras_resnet.cli.options import chosen_recipe
from keras_resnet.errors import RunError
from keras_resnet.info import Protocol
from keras_resnet.opening import open_model
from keras_resnet.runs import checkpoints, layout
from keras_resnet.runs.history import best_place, is_stalled
from keras_resnet.runs.status import status
from keras_resnet.train import loop, training
from keras_resnet.train.trainable import Trainable

NET = {"width": 8, "depths": [1], "dropout": 0.2}
SHORT = RECIPE.replace(overrides=NET, mixup=0.0, warmup_epochs=0.0)


def test_best_epoch_is_the_first_of_the_best_and_ends_a_run_that_waited():
    scores = [0.2, 0.4, 0.4, None, 0.3]
    rows = [
        {"epoch": epoch, **({} if score is None else {"val_top1": score})}
        for epoch, score in enumerate(scores, start=1)
    ]
    assert best_place(rows) == (2, 0)
    assert [is_stalled(rows[:n], "val_top1", 1) for n in range(6)] == [
        *[False, False, False, True],
        False,  # an epoch that was not validated
        True,
    ]
    assert not is_stalled(rows, "val_top1", 0)
    assert not is_stalled(rows[:4], "val_top1", 2)
    assert is_stalled(rows, "val_top1", 3)


@pytest.fixture(scope="module")
def stalled(data, tmp_path_factory):
    """(recipe, run, what it said) that early stopping ends, by the moving average."""
    # top-1 of 12 pictures cannot rise 12 times
    recipe = SHORT.replace(epochs=14, early_stopping=1, monitor="val_ema_top1")
    run = tmp_path_factory.mktemp("stalled") / "run"
    with contextlib.redirect_stderr(open(run.with_name("said"), "w")) as said:
        train.fit(recipe, data, run)
    said.close()
    return recipe, run, run.with_name("said").read_text()


@pytest.mark.slow
def test_run_without_a_better_epoch_is_finished_early_and_says_so(
    stalled, data, capsys
):
    recipe, run, said = stalled
    rows = history(run)
    scores = [row["val_ema_top1"] for row in rows]
    assert 1 < len(rows) < recipe.epochs
    assert scores[-1] <= scores[-2] == max(scores)
    assert scores[:-1] == sorted({*scores[:-1]})  # each was better than all before
    why = "no better val_ema_top1 for 1 epochs"
    line = f"{run}: finished early, after {len(rows)} of 14 epochs: {why}\n"
    assert said == line
    assert train.is_finished(recipe, data, run)
    train.fit(recipe, data, run, Stop(0, 0))
    assert capsys.readouterr().err == line
    assert history(run) == rows
    facts = status(run)
    assert (facts["state"], facts["early"]) == ("finished", why)
    assert facts["best"]["val_ema_top1"] == max(scores)


@pytest.mark.slow
def test_best_model_is_the_moving_average_of_the_best_epoch(stalled, data):
    _, run, _ = stalled
    rows = history(run)
    best = rows[best_place(rows, "val_ema_top1").epoch - 1]
    assert best is rows[-2]
    for file, row in ((layout.BEST, best), (layout.AVERAGE, rows[-1])):
        measured = evaluate.run(open_model(run / file), data)
        assert measured["top1"] == pytest.approx(row["val_ema_top1"])
    measured = evaluate.run(open_model(run), data)
    assert measured["top1"] == pytest.approx(rows[-1]["val_top1"])
    losses = [row["val_ema_loss"] for row in rows]
    assert losses != [row["val_loss"] for row in rows]


@pytest.mark.slow
def test_early_end_is_the_same_however_often_the_run_was_stopped(
    stalled, data, tmp_path, monkeypatch, capsys
):
    recipe, peace, _ = stalled
    run = tmp_path / "run"
    by_average = Trainable.with_averages

    @contextlib.contextmanager
    def told(model):
        with by_average(model):
            signal.getsignal(signal.SIGTERM)(signal.SIGTERM, None)
            yield

    class Killed(Exception):
        pass

    def die(*arguments):
        raise Killed

    with monkeypatch.context() as change:
        change.setattr(Trainable, "with_averages", told)
        with pytest.raises(train.Interrupted):
            train.fit(recipe, data, run)
    assert checkpoints.places(run) == [(0, STEPS)]
    assert not (run / layout.HISTORY).exists()
    with monkeypatch.context() as change:
        change.setattr(training, "write_models", die)
        with pytest.raises(Killed):
            train.fit(recipe, data, run)
    assert not train.is_finished(recipe, data, run)
    nothing = Stop(len(history(run)), 0)
    train.fit(recipe, data, run, nothing)
    assert differing(final(run), final(peace)) == []
    best, theirs = (open_model(folder / layout.BEST) for folder in (run, peace))
    assert_same_variables(best, theirs)
    assert "finished early" in capsys.readouterr().err


class End(keras.callbacks.Callback):
    """Stops training after an epoch, as Keras's own callbacks do."""

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = True


@pytest.mark.slow
def test_callback_that_stops_a_resumed_epoch_finishes_the_run(data, tmp_path, capsys):
    run = tmp_path / "run"
    with pytest.raises(train.Interrupted):
        train.fit(SHORT, data, run, None, [Moment("batch begin", 0, 1, signal.SIGTERM)])
    ended = []
    end = keras.callbacks.LambdaCallback(on_train_end=lambda logs: ended.append(logs))
    train.fit(SHORT, data, run, None, [End(), end])
    assert len(ended) == 1
    assert len(history(run)) == 1
    line = f"{run}: finished early, after 1 of 3 epochs: a callback stopped it\n"
    assert capsys.readouterr().err == line
    train.fit(SHORT, data, run, Stop(1, 0))
    assert capsys.readouterr().err == line
    assert status(run)["early"] == "a callback stopped it"
    assert not train.is_finished(SHORT.replace(epochs=4), data, run)
    # a recipe of an older version lacks the fields that have come since
    there = json.loads((run / layout.RECIPE).read_text())
    for field in ("monitor", "early_stopping", "eval_batch_size"):
        del there[field]
    (run / layout.RECIPE).write_text(json.dumps(there))
    assert train.is_finished(SHORT, data, run)
    with pytest.raises(RunError, match="early_stopping is 0 there and 3 here"):
        train.is_finished(SHORT.replace(early_stopping=3), data, run)


@pytest.mark.slow
def test_run_goes_on_without_the_weights_that_it_began_from(data, tmp_path):
    weights = tmp_path / "five.safetensors"
    model = keras_resnet.create(
        "resnet18d", width=8, depths=(1,), classes=5, mean=(0.5,) * 3, std=(0.4,) * 3
    )
    model.info = model.info.replace(protocol=Protocol(40, 1.0, "bilinear"))
    keras_resnet.save_weights(model, weights)
    fields = {"test_size": 0, "crop_pct": 0.0, "interpolation": "", "epochs": 2}
    recipe = SHORT.replace(weights=str(weights), **fields)
    stop = Moment("batch begin", 0, 1, signal.SIGTERM)
    with pytest.raises(train.Interrupted):
        train.fit(recipe, data, tmp_path / "cut", None, [stop])
    train.fit(recipe, data, tmp_path / "whole")
    weights.rename(tmp_path / "elsewhere")
    resumed = train.fit(recipe, data, tmp_path / "cut")
    assert differing(final(tmp_path / "cut"), final(tmp_path / "whole")) == []
    assert resumed.info.protocol == Protocol(40, 1.0, "bilinear")
    assert resumed.info.config.mean == (0.5,) * 3
    with pytest.raises(keras_resnet.WeightsError, match="five"):
        train.fit(recipe, data, tmp_path / "new")
    # at the command line the net came along with them
    given = {"weights": str(weights), "epochs": 2}
    chosen = chosen_recipe("fine-tune", given, tmp_path / "cut")
    assert (chosen.model, chosen.overrides) == (recipe.model, recipe.overrides)
    assert chosen_recipe("fine-tune", given).model == "resnet50d"


@pytest.mark.parametrize(
    ("fields", "size"),
    [({}, 8), ({"accumulate": 4}, 2), ({"accumulate": 4, "eval_batch_size": 6}, 6)],
)
def test_validation_takes_as_many_pictures_as_fit(
    fields, size, data, tmp_path, monkeypatch
):
    class Asked(Exception):
        pass

    def batches(source, recipe, batch_size=None, slice_of=None):
        raise Asked(batch_size)

    monkeypatch.setattr(loop.pictures, "eval_batches", batches)
    with pytest.raises(Asked) as asked:
        train.fit(SHORT.replace(**fields), data, tmp_path / "run")
    assert asked.value.args == (size,)
    shutil.rmtree(tmp_path / "run")
