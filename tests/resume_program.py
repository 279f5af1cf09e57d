"""A small training that ends itself where it is told to; run by test_resume.py.

    python resume_program.py SPEC

SPEC is JSON: `data`, an .npz; `run`; and perhaps `recipe`, fields of another recipe;
`saves`, arguments of `train.fit`; `at`, a moment: [hook, epoch, batch]; `number`, the
signal of that moment; `until`, a path that is there before; `save`, another moment:
[function of a checkpoint's writing, how many calls of it come before, whether it dies
before the call or after]; `log`, a file that gets a line a batch, of its pictures.
"""

import json
import os
import signal
import sys
import time

import keras
import numpy as np
import tensorflow as tf

from keras_resnet import train
from keras_resnet.data import batches
from keras_resnet.recipe import Recipe

INTERRUPTED = 75
STEPS = 4  # an epoch
PICTURES = {"train": 32, "val": 12}
RECIPE = Recipe(
    name="tiny",
    model="resnet18d",
    overrides={
        "width": 8,
        "depths": [1, 1],
        "drop_path": 0.1,
        "dropout": 0.2,
    },
    precision="float32",
    train_size=32,
    test_size=32,
    min_area=0.5,
    colour=0.1,
    batch_size=8,
    epochs=3,
    base_rate=0.5,
    warmup_epochs=1.0,
    ema=0.9,
    mixup=0.2,
)


def pictures():
    """Arrays for `train.fit`: noise, and 7 times its number in a picture's red."""
    drawn = np.random.default_rng(0)
    data = {}
    for split, size in PICTURES.items():
        images = drawn.integers(0, 256, (size, 36, 36, 3), np.uint8)
        images[..., 0] = 7 * np.arange(size)[:, None, None]
        data[split] = images, np.arange(size) % 3
    return data


class Moment(keras.callbacks.Callback):
    """Kills this process at a moment of its training, or asks it to stop."""

    def __init__(self, hook, epoch, batch, number=signal.SIGKILL, until=None):
        super().__init__()
        self.moment, self.number = (hook, epoch, batch), number
        self.until = until

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        self.at("batch begin", batch)

    def on_train_batch_end(self, batch, logs=None):
        self.at("batch end", batch)

    def on_test_batch_begin(self, batch, logs=None):
        self.at("evaluation", batch)

    def on_epoch_end(self, epoch, logs=None):
        self.at("epoch end", 0)

    def on_train_end(self, logs=None):
        self.at("train end", 0)

    def at(self, hook, batch):
        if (hook, self.epoch, batch) == self.moment:
            while self.until and not os.path.exists(self.until):
                time.sleep(0.01)
            if self.number == signal.SIGKILL:
                os.kill(os.getpid(), signal.SIGKILL)
            # as Python would; a real signal that went astray in a process of tests
            # would end all of them (test_process and the command's tests send such)
            signal.getsignal(self.number)(self.number, None)


class Log(keras.callbacks.Callback):
    """Writes which pictures each batch was made of, once it was trained on."""

    def __init__(self, file):
        super().__init__()
        self.file, self.made = file, {}

    def look(self, index, images):
        self.made[int(index)] = (images[:, 0, 0, 0].numpy() / 7).tolist()

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        numbers = self.made.pop(self.epoch * STEPS + batch)
        with open(self.file, "a") as stream:
            stream.write(json.dumps([self.epoch, batch, numbers]) + "\n")


def die_in_a_save(function, number, before):
    """SIGKILL before or after a call of what a checkpoint is written by."""
    module = np if function == "savez" else os
    real, made = getattr(module, function), []

    def deadly(*args, **kwargs):
        made.append(1)
        if len(made) > number and before:
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*args, **kwargs)
        if len(made) > number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(module, function, deadly)


def main(spec):
    with np.load(spec["data"]) as file:
        data = {
            name: (file[f"{name}_images"], file[f"{name}_labels"]) for name in PICTURES
        }
    callbacks, finish = [], batches._finish
    if "log" in spec:
        log = Log(spec["log"])

        def looked(batch, recipe, index):  # before pictures are coloured and mixed
            seen = tf.py_function(log.look, [index, batch[0]], [])
            with tf.control_dependencies([seen]):
                return finish(batch, recipe, tf.identity(index))

        batches._finish = looked
        callbacks.append(log)
    if "at" in spec:
        number, until = spec.get("number", signal.SIGKILL), spec.get("until")
        callbacks.append(Moment(*spec["at"], number, until))
    if "save" in spec:
        die_in_a_save(*spec["save"])
    recipe = RECIPE.replace(**spec.get("recipe", {}))
    saves = spec.get("saves", {"checkpoint_steps": 1})
    try:
        train.fit(recipe, data, spec["run"], None, callbacks, **saves)
    except train.Interrupted:
        sys.exit(INTERRUPTED)
    finally:  # tests call this too
        batches._finish = finish


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
