"""What the tests of runs share: moments, and all that a run has come to."""

import json
import signal
import time

import keras
import numpy as np
import pytest
from resume_program import RECIPE, Moment

from keras_resnet import train
from keras_resnet.opening import open_model
from keras_resnet.runs import checkpoints, layout

EVERY = {"checkpoint_steps": 1}
NONE = {"checkpoint_seconds": 0.0}  # but after epochs


class Stop(keras.callbacks.Callback):
    """Interrupts training in the middle of an epoch, as Ctrl-C does."""

    def __init__(self, epoch, batch):
        super().__init__()
        self.where = (epoch, batch)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.where:
            raise KeyboardInterrupt


def stop(data, run, moment, number=signal.SIGTERM, recipe=RECIPE, **saves):
    """Trains until a moment, when a signal says to stop; where it was written."""
    with pytest.raises(train.Interrupted, match="run the same command to resume"):
        train.fit(recipe, data, run, None, [Moment(*moment, number)], **NONE | saves)
    return checkpoints.places(run)[-1]


def final(run):
    """{name: array or text} of all that a finished run has come to."""
    names = (layout.HISTORY, layout.LOG)
    result = {name: np.array((run / name).read_text()) for name in names}
    for name in (layout.MODEL, layout.AVERAGE):
        # not by their paths, in which Keras numbers what it names
        for place, weight in enumerate(open_model(run / name).weights):
            result[f"{name}/{place}"] = keras.ops.convert_to_numpy(weight)
    checkpoint, rejected = checkpoints.newest(run)
    assert rejected == []
    return result | checkpoint.arrays


def differing(ours, theirs):
    """The names of what differs in a bit between two of `final`."""
    assert ours.keys() == theirs.keys()
    return [
        name
        for name in ours
        if ours[name].dtype != theirs[name].dtype
        or ours[name].tobytes() != theirs[name].tobytes()
    ]


def assert_same_variables(model, other):
    assert len(model.weights) == len(other.weights)
    for ours, theirs in zip(model.weights, other.weights):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy(), err_msg=ours.path)


def history(run):
    return json.loads((run / layout.HISTORY).read_text())


def wait_for(what, seconds=600):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)
