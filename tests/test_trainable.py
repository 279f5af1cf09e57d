"""What the wrapper adds to a net in training: an average, a scale, a count."""

import os
import subprocess
import sys

import numpy as np
import pytest

import keras_resnet
from keras_resnet.backend import keras
from keras_resnet.optimizers import CoupledSGD
from keras_resnet.train.trainable import Trainable


def net(**options):
    keras.utils.set_random_seed(0)
    return keras_resnet.create(
        "resnet18d",
        width=8,
        depths=(1, 1),
        classes=3,
        classifier_activation=None,
        **options,
    )


def compiled(model, **options):
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(CoupledSGD(0.1, **options), loss, jit_compile=False)
    return model


def batch(seed=0):
    random = np.random.default_rng(seed)
    x = random.uniform(0, 255, (4, 32, 32, 3)).astype(np.float32)
    return x, np.eye(3, dtype=np.float32)[random.integers(3, size=4)]


def values(variables):
    return [np.asarray(keras.ops.convert_to_numpy(v)) for v in variables]


@pytest.mark.slow
@pytest.mark.addons
def test_average_is_that_of_all_weights_and_statistics():
    model = compiled(Trainable(net(), ema=0.3))
    expected = [value.astype(np.float64) for value in values(model.net.weights)]
    moved = 0
    for step in range(8):
        model.train_on_batch(*batch(step))
        keep = min(0.3, (1 + step) / (10 + step))
        for place, value in enumerate(values(model.net.weights)):
            expected[place] = keep * expected[place] + (1 - keep) * value
        moved += keep == 0.3
    assert moved  # past the warm-up
    for weight, ours, theirs in zip(model.net.weights, model.averages, expected):
        np.testing.assert_allclose(ours, theirs, 1e-4, 1e-6, err_msg=weight.path)
    statistics = [w.path for w in model.net.weights if "moving_variance" in w.path]
    assert len(statistics) > 5


@pytest.mark.slow
def test_average_waits_for_the_gradients_of_all_parts():
    model = compiled(Trainable(net(), ema=0.3), gradient_accumulation_steps=2)
    before = values(model.averages)
    model.train_on_batch(*batch())
    for ours, theirs in zip(values(model.averages), before):
        np.testing.assert_array_equal(ours, theirs)
    model.train_on_batch(*batch())
    kernel = model.net.get_layer("head").kernel
    place = [w.path for w in model.net.weights].index(kernel.path)
    assert (values(model.averages)[place] != before[place]).any()


@pytest.mark.addons
def test_steps_are_those_of_the_bare_net():
    wrapped, bare = compiled(Trainable(net())), compiled(net())
    for step in range(3):
        ours = wrapped.train_on_batch(*batch(step))
        assert ours == bare.train_on_batch(*batch(step))
    for ours, theirs in zip(values(wrapped.net.weights), values(bare.weights)):
        np.testing.assert_array_equal(ours, theirs)


def test_pixels_are_not_rounded_on_their_way_to_a_half_precision_net(policy):
    policy("mixed_bfloat16")
    model = Trainable(net())
    x = np.full((1, 32, 32, 3), 200.7, np.float32)  # bfloat16 has 200 and 201
    np.testing.assert_array_equal(model(x), model.net(x))
    seen = []
    model.net.get_layer("preprocessing").call = lambda x: seen.append(x) or x
    model(x)
    np.testing.assert_array_equal(seen[0], x)


@pytest.mark.addons
@pytest.mark.parametrize(
    "precision",
    [
        "mixed_float16",
        pytest.param("mixed_bfloat16", marks=pytest.mark.slow),
        "float32",
    ],
)
def test_loss_is_scaled_for_float16_alone(precision, policy):
    policy(precision)
    half = net()
    policy("float32")
    model = compiled(Trainable(half))
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (precision == "mixed_float16")
    assert np.isfinite(model.train_on_batch(*batch()))


@pytest.mark.addons
def test_steps_without_a_finite_loss_are_counted():
    model = compiled(Trainable(net()))
    x, y = batch()
    model.train_on_batch(x, y)
    assert int(model.bad_steps) == 0
    for count in (1, 2):
        model.train_on_batch(x, y * np.nan)
        assert int(model.bad_steps) == count


@pytest.mark.addons
def test_overflow_in_float16_leaves_weights_and_statistics_whole(policy):
    policy("mixed_float16")
    half = net(include_preprocessing=False)
    policy("float32")
    model = compiled(Trainable(half))
    x, y = batch()
    model.train_on_batch(x, y)
    before = dict(zip([w.path for w in half.weights], values(half.weights)))
    scale = float(model.optimizer.dynamic_scale)
    model.train_on_batch(x * 1e6, y)  # above 65,504
    assert float(model.optimizer.dynamic_scale) == scale / 2
    assert int(model.bad_steps) == 1
    for weight in half.weights:
        assert np.isfinite(values([weight])[0]).all(), weight.path
        if "moving" not in weight.path:
            np.testing.assert_array_equal(weight, before[weight.path])
    model.train_on_batch(x, y)
    assert int(model.bad_steps) == 0


@pytest.mark.slow
def test_what_is_saved_is_the_net(tmp_path):
    model = compiled(Trainable(net(), ema=0.9))
    model.train_on_batch(*batch())
    model.save(tmp_path / "net.keras")
    again = keras.models.load_model(tmp_path / "net.keras")
    for ours, theirs in zip(values(again.weights), values(model.net.weights)):
        np.testing.assert_array_equal(ours, theirs)


def test_bad_decay_is_named():
    with pytest.raises(ValueError, match=r"ema=1: must be in \[0, 1\)"):
        Trainable(net(), ema=1)


@pytest.mark.slow
def test_jax_trains_the_same_average(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import numpy as np, keras\n"
        "from test_trainable import batch, compiled, net, values\n"
        "from keras_resnet.train.trainable import Trainable\n"
        "from keras_resnet.distillation import distill\n"
        "student, teacher = net(), net()\n"
        "random = np.random.default_rng(0)\n"
        "for weight in [*student.weights, *teacher.weights]:\n"
        "    one = float(weight.path.endswith(('gamma', 'variance')))\n"
        "    weight.assign(one + random.uniform(0, 0.1, weight.shape))\n"
        "model = compiled(distill(student, teacher, 4.0, ema=0.3))\n"
        "before = values(teacher.weights)\n"
        "for step in range(3):\n"
        "    model.train_on_batch(*batch(step))\n"
        "for ours, theirs in zip(before, values(teacher.weights)):\n"
        "    np.testing.assert_array_equal(ours, theirs)\n"
        "sums = [float(np.abs(v).sum()) for v in values(model.averages)]\n"
        "print(keras.backend.backend(), sums, int(model.bad_steps))\n"
    )
    said = {}
    for backend in ("jax", "tensorflow"):
        done = subprocess.run(
            [sys.executable, script, os.path.dirname(__file__)],
            capture_output=True,
            text=True,
            env={**os.environ, "KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": ""},
        )
        assert done.returncode == 0, done.stderr
        name, rest = done.stdout.strip().splitlines()[-1].split(" ", 1)
        assert name == backend
        sums, _, bad = rest.rpartition(" ")
        said[backend] = np.array(eval(sums))
        assert bad == "0"
    np.testing.assert_allclose(said["jax"], said["tensorflow"], rtol=1e-3)
