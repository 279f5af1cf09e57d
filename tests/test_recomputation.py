"""Blocks that are computed again in the backward pass train as the others do."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from resume_program import RECIPE
from runs import differing, final, stop

from keras_resnet import train
from keras_resnet.backend import keras, ops
from keras_resnet.layers.blocks import BLOCKS
from keras_resnet.recipe import Recipe
from keras_resnet.train.build import build

BLOCK = {"attention": "se", "drop_path": 0.3, "zero_gamma": False}

GROUPS = {"width": 64, "normalization": "group", "fused_batch_norm": False}


def setup(remat, **fields):
    """A compiled model of two blocks, the same at each call but for `remat`."""
    keras.utils.set_random_seed(0)
    net = {"width": 8, "depths": [1, 1], **BLOCK, **fields.pop("overrides", {})}
    fields = {"precision": "float32", "mixup": 0.0, "warmup_epochs": 0.0, **fields}
    sizes = {"train_size": 32, "test_size": 32, "batch_size": 8}
    recipe = Recipe(model="resnet18d", overrides=net, remat=remat, **sizes, **fields)
    return build(recipe, ("blue", "green", "red"), 4).model


def batch():
    random = np.random.default_rng(0)
    x = random.uniform(0, 255, (8, 32, 32, 3)).astype(np.float32)
    return x, np.eye(3, dtype=np.float32)[random.integers(3, size=8)]


def trained(remat, steps=2, jit_compile=False, **fields):
    """([(path, value) of each variable] after some steps, the losses)."""
    model = setup(remat, **fields)
    model.jit_compile = jit_compile
    losses = [model.train_on_batch(*batch())[0] for _ in range(steps)]
    variables = [*model.net.variables, *model.optimizer.variables]
    return [(it.path, ops.convert_to_numpy(it)) for it in variables], losses


def assert_near(ours, theirs):
    for (path, a), (_, b) in zip(ours, theirs, strict=True):
        a, b = a.astype(np.float64), b.astype(np.float64)
        size = np.abs(b).max() + 1e-9
        np.testing.assert_allclose(a / size, b / size, atol=1e-5, err_msg=path)


def blocks(net):
    kinds = tuple(BLOCKS.values())
    return [layer for layer in net._flatten_layers() if isinstance(layer, kinds)]


@pytest.mark.parametrize(
    "fields",
    [
        {},  # the seeds of stochastic depth and all statistics are among the variables
        pytest.param({"precision": "mixed_bfloat16"}, marks=pytest.mark.slow),
        pytest.param({"precision": "mixed_float16"}, marks=pytest.mark.slow),
        pytest.param({"accumulate": 2, "ema": 0.5}, marks=pytest.mark.slow),
        pytest.param({"stage_rates": [0, 0, 1]}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_steps_are_the_same_to_the_bit(fields):
    (again, losses), (kept, theirs) = trained("stages", **fields), trained("", **fields)
    assert losses == theirs
    pairs = list(zip(again, kept, strict=True))
    assert [path for (path, a), (_, b) in pairs if a.tobytes() != b.tobytes()] == []
    seeds = [value[1] for path, value in again if path.endswith("generator_state")]
    assert seeds == [2]  # of the second block: the first is never dropped


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"jit_compile": True},  # XLA fuses what it may
        {"overrides": GROUPS},
        {"freeze_statistics": True},  # TensorFlow folds them where nothing is kept
    ],
    ids=str,
)
def test_steps_are_the_same_but_for_rounding(fields):
    (again, losses), (kept, theirs) = trained("stages", **fields), trained("", **fields)
    np.testing.assert_allclose(losses, theirs, 1e-6)
    assert_near(again, kept)


def convolutions(model):
    """The forward convolutions of a training step."""

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x, y, model(x, training=True))
        return tape.gradient(loss, [v.value for v in model.trainable_variables])

    graph = step.get_concrete_function(*map(tf.constant, batch())).graph
    return sum(op.type == "Conv2D" for op in graph.get_operations())


def test_convolutions_of_the_blocks_run_twice():
    kept, again = setup(""), setup("stages")
    within = [
        layer
        for block in blocks(kept.net)
        for layer in block._flatten_layers()
        if isinstance(layer, keras.layers.Conv2D)
    ]
    assert len(within) > 4
    # squeeze-and-excite has products of matrices
    assert convolutions(again) == convolutions(kept) + len(within)


@pytest.mark.slow
def test_run_resumes_to_what_one_that_keeps_all_gives(data, peace, tmp_path):
    recipe = RECIPE.replace(remat="stages")
    stop(data, tmp_path / "run", ("batch end", 1, 1), recipe=recipe)
    model = train.fit(recipe, data, tmp_path / "run")
    assert differing(final(tmp_path / "run"), peace) == []
    assert not any(block.recomputes for block in blocks(model))
    assert "recompute" not in model.to_json()


ON_JAX = """
import sys, numpy as np
sys.path.insert(0, sys.argv[1])
import test_recomputation as here
(again, losses), (kept, theirs) = (
    here.trained(remat, jit_compile=True) for remat in ("stages", "")
)
np.testing.assert_allclose(losses, theirs, 1e-6)
here.assert_near(again, kept)
seeds = [value[1] for path, value in again if path.endswith("generator_state")]
print(losses, [*map(int, seeds)])
"""


@pytest.mark.slow  # JAX compiles for a minute
def test_steps_agree_on_jax():
    done = subprocess.run(
        [sys.executable, "-c", ON_JAX, os.path.dirname(__file__)],
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("[2]\n")
