"""Trains on logical devices of the CPU; run by test_devices.py.

    python devices_program.py SPEC

SPEC is JSON: `devices`, how many; `kind`; and `out`, an .npz of what came of it. Of the
kind "steps" that is the weights after six steps in float64, "fit" a run in `run` with
`recipe`, fields of its recipe, and perhaps `data`, a source; "overflow" a step of which
one device's gradient is infinite. With `process`, [HOST:PORT, how many processes, which
of them] it is one of several processes, of which the first writes `out`.
"""

import json
import sys

import numpy as np
import tensorflow as tf

SPEC = json.loads(sys.argv[1])
COUNT = SPEC["devices"]

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * COUNT
)

import keras  # noqa: E402

if keras.backend.backend() == "jax":
    import jax

    jax.config.update("jax_num_cpu_devices", COUNT)

ADDRESS, PROCESSES, PROCESS = SPEC.get("process", (None, 1, 0))
if ADDRESS:
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    keras.distribution.initialize(ADDRESS, PROCESSES, PROCESS)

from resume_program import RECIPE, pictures  # noqa: E402

from keras_resnet import create, train  # noqa: E402
from keras_resnet.data import batches, eval_batches, open_source  # noqa: E402
from keras_resnet.optimizers import CoupledSGD, LossScale  # noqa: E402
from keras_resnet.train.devices import choose  # noqa: E402
from keras_resnet.train.objective import loss, metrics  # noqa: E402
from keras_resnet.train.trainable import Trainable  # noqa: E402

SYNCHRONIZED = RECIPE.replace(
    batch_statistics="synchronized",
    overrides={"width": 8, "depths": [1, 1]},
    **SPEC.get("recipe", {}),
)


def steps():
    """Six steps, the moving average and an evaluation that does not divide."""
    # XLA's rounding of mixup, in float32, depends on the number of images
    recipe = SYNCHRONIZED.replace(mixup=0.0)
    keras.backend.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    devices = choose(COUNT, recipe)
    slice_of = (PROCESS, PROCESSES)
    source = open_source(pictures())
    with devices.scope():
        keras.utils.set_random_seed(0)
        net = create(
            recipe.model,
            weights=None,
            classes=3,
            classifier_activation=None,
            **recipe.overrides,
        )
        model = Trainable(net, ema=0.9)
        model.compile(
            CoupledSGD(0.1, weight_decay=1e-4),
            loss(recipe, 3),
            weighted_metrics=metrics(recipe)[:1],  # the other is not of float64
        )
        with devices.synchronizing(net):
            history = model.fit(
                # in float32 XLA would round differently for each number of devices
                batches.train_batches(source, recipe, slice_of=slice_of).map(_double),
                steps_per_epoch=6,
                shuffle=False,
                verbose=0,
            ).history
            val = eval_batches(source, recipe, slice_of=slice_of)
            val = val.map(_double)
            measured = model.evaluate(val, return_dict=True, verbose=0)
        arrays = {
            f"{place} {variable.path}": np.array(keras.ops.convert_to_numpy(variable))
            for place, variable in enumerate(model.state)
        }
    logs = {name: values[0] for name, values in history.items()}
    return arrays | logs | {f"val_{name}": value for name, value in measured.items()}


def _double(images, *others):
    return tf.cast(images, tf.float64), *others


def fit():
    data = SPEC.get("data") or pictures()
    model = train.fit(SYNCHRONIZED, data, SPEC["run"], devices=COUNT)
    return {
        f"{place} {weight.path}": np.array(keras.ops.convert_to_numpy(weight))
        for place, weight in enumerate(model.weights)
    }


def overflow():
    """The weight and the scale after steps of which the last image is infinite."""
    with choose(COUNT, SYNCHRONIZED).scope():
        net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model = Trainable(net)
        rule = LossScale(CoupledSGD(1.0, momentum=0.0), initial_scale=4.0)
        model.compile(rule, "mse", auto_scale_loss=False)
        net.set_weights([np.ones((1, 1)), np.zeros(1)])
        rule.build(model.trainable_variables)
        last = np.ones((8, 1), "float32")
        last[-1] = np.inf
        data = tf.data.Dataset.from_tensors((last, np.zeros((8, 1), "float32")))
        model.fit(data, verbose=0)
        copies = [
            np.array(copy)
            for variable in (*net.weights, rule.dynamic_scale)
            for copy in _copies(variable)
        ]
        bad = int(keras.ops.convert_to_numpy(model.bad_steps))
    return {"bad": bad} | {str(place): copy for place, copy in enumerate(copies)}


def _copies(variable):
    """What each device has of a variable."""
    if keras.backend.backend() == "jax":
        return [shard.data for shard in variable.value.addressable_shards]
    strategy = tf.distribute.get_strategy()
    return strategy.experimental_local_results(variable.value)


arrays = {"steps": steps, "fit": fit, "overflow": overflow}[SPEC["kind"]]()
if not PROCESS:
    np.savez(SPEC["out"], **arrays)
