"""Float16 has its loss scaled, wherever it computes; an overflow harms nothing."""

import os
import subprocess
import sys

import numpy as np
import pytest

import keras_resnet
from keras_resnet.backend import keras, ops
from keras_resnet.layers import BasicBlock
from keras_resnet.optimizers import (
    CoupledSGD,
    Lamb,
    LossScale,
    WarmupCosine,
    attach_loss_scale,
)

SCALES = keras.optimizers.LossScaleOptimizer


def net():
    return keras_resnet.create(
        "resnet18d", width=8, depths=(1,), classes=3, classifier_activation=None
    )


def batch():
    random = np.random.default_rng(0)
    x = random.uniform(0, 255, (4, 32, 32, 3)).astype(np.float32)
    return x, np.eye(3, dtype=np.float32)[random.integers(3, size=4)]


def loss():
    return keras.losses.CategoricalCrossentropy(from_logits=True)


@pytest.mark.parametrize("name", ["mixed_float16", "mixed_bfloat16", "float32"])
def test_only_float16_is_scaled(name, policy):
    policy(name)
    model = net()
    policy("float32")
    model.compile(CoupledSGD(0.1), loss())
    assert isinstance(model.optimizer, SCALES) == (name == "mixed_float16")


def test_one_layer_of_float16_is_enough():
    inputs = keras.Input((8,))
    inner = keras.Sequential([keras.layers.Dense(4, dtype="mixed_float16")])
    model = keras.Model(inputs, keras.layers.Dense(2)(inner(inputs)))
    assert isinstance(attach_loss_scale("sgd", model), LossScale)
    theirs = SCALES(keras.optimizers.SGD())
    assert attach_loss_scale(theirs, model) is theirs
    plain = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    rule = CoupledSGD(0.1)
    assert attach_loss_scale(rule, plain) is rule


def test_layer_of_float16_within_a_block_is_found():
    inputs = keras.Input((8, 8, 4))
    block = BasicBlock(4)
    model = keras.Model(inputs, block(inputs))
    assert not isinstance(attach_loss_scale("sgd", model), SCALES)
    block.conv2.conv.dtype_policy = "mixed_float16"
    assert isinstance(attach_loss_scale("sgd", model), LossScale)


def test_net_without_an_optimizer_stays_without(policy, tmp_path):
    policy("mixed_float16")
    model = net()
    policy("float32")
    model.compile(None, loss())
    model.save(tmp_path / "net.keras")
    again = keras.models.load_model(tmp_path / "net.keras")
    assert again.optimizer is None
    x, y = batch()
    np.testing.assert_allclose(
        again.evaluate(x, y, verbose=0), model.evaluate(x, y, verbose=0)
    )


def test_net_that_was_not_to_be_scaled_is_not_when_reloaded(policy, tmp_path):
    policy("mixed_float16")
    model = net()
    policy("float32")
    model.compile(CoupledSGD(0.1), loss(), auto_scale_loss=False, jit_compile=False)
    model.train_on_batch(*batch())
    model.save(tmp_path / "net.keras")
    again = keras.models.load_model(tmp_path / "net.keras")
    assert isinstance(again.optimizer, CoupledSGD)
    for ours, theirs in zip(again.optimizer.variables, model.optimizer.variables):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_reloaded_net_is_scaled_again_and_goes_on_where_it_was(policy, tmp_path):
    policy("mixed_float16")
    model = net()
    policy("float32")
    model.compile(CoupledSGD(0.1, weight_decay=1e-4), loss(), jit_compile=False)
    for _ in range(2):
        model.train_on_batch(*batch())
    model.optimizer.dynamic_scale.assign(512.0)
    model.save(tmp_path / "net.keras")
    again = keras.models.load_model(tmp_path / "net.keras")
    assert isinstance(again.optimizer, LossScale)
    assert float(again.optimizer.dynamic_scale) == 512
    assert again.optimizer.get_config() == model.optimizer.get_config()
    for either in (model, again):
        either.train_on_batch(*batch())
    for ours, theirs in zip(
        [*again.variables, *again.optimizer.variables],
        [*model.variables, *model.optimizer.variables],
    ):
        np.testing.assert_array_equal(ops.convert_to_numpy(ours), theirs)
    again.compile("sgd", loss())  # anew, under a float32 policy
    assert isinstance(again.optimizer, LossScale)


def test_overflow_leaves_the_step_out_and_halves_the_scale(policy):
    policy("mixed_float16")
    model = net()
    policy("float32")
    rule = LossScale(CoupledSGD(0.1), initial_scale=8.0)
    model.compile(rule, loss(), jit_compile=False)
    model.train_on_batch(*batch())
    optimizer = model.optimizer
    optimizer.dynamic_scale.assign(2.0**40)  # its products are no float16
    before = [ops.convert_to_numpy(v) for v in model.trainable_variables]
    assert np.isfinite(model.train_on_batch(*batch()))
    assert float(optimizer.dynamic_scale) == 2.0**39
    assert int(optimizer.iterations) == 1
    for ours, theirs in zip(model.trainable_variables, before):
        np.testing.assert_array_equal(ops.convert_to_numpy(ours), theirs)


def test_rate_and_count_are_the_inner_rules():
    rule = LossScale(CoupledSGD(0.25))
    weight = keras.Variable(np.ones(2, np.float32))
    rule.build([weight])
    rule.apply([ops.ones(2)], [weight])
    assert float(rule.learning_rate) == 0.25
    assert int(rule.iterations) == 1


def test_config_makes_the_same_rule_again():
    inner = Lamb(WarmupCosine(0.1, 2, 5), weight_decay=0.1, rates={"stem": 0.5})
    rule = LossScale(inner, initial_scale=8.0, dynamic_growth_steps=3)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(rule))
    assert isinstance(again, LossScale)
    assert isinstance(again.inner_optimizer, Lamb)
    assert keras.optimizers.serialize(again) == keras.optimizers.serialize(rule)


REPLICAS = """
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)
import keras
from keras_resnet.optimizers import CoupledSGD, LossScale
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    weight = keras.Variable(np.ones(3, np.float32), name="stem")
    inner = CoupledSGD(1.0, momentum=0.0, nesterov=False, rates={"stem": 0.5})
    rule = LossScale(inner, initial_scale=4.0)
    rule.build([weight])

@tf.function
def step(bad):
    def replica():
        here = tf.distribute.get_replica_context().replica_id_in_sync_group
        scale = tf.where(tf.equal(here, bad), np.inf, 4.0)
        rule.apply([tf.ones(3) * tf.cast(scale, tf.float32)], [weight])
    strategy.run(replica)

for bad, expected, scale in ((0, 1.0, 2.0), (1, 1.0, 1.0), (-1, -3.0, 1.0)):
    step(tf.constant(bad))
    for copy in strategy.experimental_local_results(rule.dynamic_scale.value):
        assert float(copy) == scale, (bad, float(copy))
    for copy in strategy.experimental_local_results(weight.value):
        value = np.asarray(copy)
        assert np.allclose(value, expected), (bad, value)
print("all replicas agree")
"""


@pytest.mark.slow
def test_overflow_on_any_replica_stops_the_step_on_all(tmp_path):
    script = tmp_path / "replicas.py"
    script.write_text(REPLICAS)
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "all replicas agree" in done.stdout
