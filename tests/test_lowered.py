"""The training step that JAX is given: what a GPU would pay for beside the net."""

import json
import os
import subprocess
import sys

import pytest

# Keras's own jit of the step, lowered to StableHLO and not compiled
PROGRAM = """
import json, re, sys
import jax
real, made = jax.jit, []

def jit(*function, **options):
    made.append(real(*function, **options))
    return made[-1]

jax.jit = jit
import numpy as np
from keras_resnet.recipe import Recipe
from keras_resnet.train.build import build

def lowered(depths, precision):
    recipe = Recipe(
        model="resnet18d",
        overrides={"width": 8, "depths": depths},
        precision=precision,
    )
    model = build(recipe, ("blue", "green", "red"), 4).model
    batch = np.zeros((8, 32, 32, 3), np.float32), np.eye(8, 3, dtype=np.float32)
    model._symbolic_build(data_batch=batch)
    state = tuple(
        [variable.value for variable in variables]
        for variables in (
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
            model.metrics_variables,
        )
    )
    made.clear()
    model.make_train_function()
    return made[0].lower(state, batch).as_text(), len(jax.tree.leaves(state))

def counts(text, arrays):
    kinds = r"\\((tensor<[^>]*>)[^)]*\\) -> (tensor<[^>]*>)"
    converts = re.findall(r"stablehlo\\.convert .*: " + kinds, text)
    activation = re.compile(r"tensor<8x\\d+x\\d+x\\d+x")
    half = [(a[-5:], b[-5:]) for a, b in converts if activation.match(a)]
    return {
        "arrays of the state": arrays,
        "of them donated": text.count("tf.aliasing_output"),
        "convolutions": text.count("stablehlo.convolution"),
        "transposes of images": len(
            re.findall(r"stablehlo\\.transpose .*-> tensor<(?:\\d+x){4}", text)
        ),
        "to half": sum(b.endswith("16>") for _, b in half),
        "from half": sum(a.endswith("16>") for a, _ in half),
        "converts of the rest": len(converts) - len(half),
        "on the host": len(
            re.findall(r"custom_call|infeed|outfeed|stablehlo\\.(?:send|recv)", text)
        ),
    }

print(json.dumps([counts(*lowered(depths, sys.argv[1])) for depths in ([1], [2])]))
"""


pytestmark = pytest.mark.slow


@pytest.fixture(
    scope="module",
    params=["mixed_bfloat16", "mixed_float16"],
)
def counted(request):
    """What is in the step of a net with a block, and what another block adds."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, request.param],
        env={
            **os.environ,
            "KERAS_BACKEND": "jax",
            "JAX_PLATFORMS": "cpu",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # of what makes the weights
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = json.loads(done.stdout)
    return one, {name: two[name] - one[name] for name in one}


def test_state_is_donated_and_updated_in_its_place(counted):
    _, more = counted
    for found in counted:
        assert found["of them donated"] == found["arrays of the state"] > 0
    # of a kernel and a normalization five each; the trained three have a velocity too
    assert more["arrays of the state"] == 2 * (5 + 3)


def test_step_asks_the_host_for_nothing(counted):
    assert [found["on the host"] for found in counted] == [0, 0]


def test_images_are_never_transposed(counted):
    assert [found["transposes of images"] for found in counted] == [0, 0]


def test_block_converts_around_its_normalizations_alone(counted):
    _, more = counted
    # forward, and the gradients of inputs and of kernels
    assert more["convolutions"] == 2 * 3
    # a normalization computes in float32, forward and backward
    assert more["to half"] <= 2 * 2
    assert more["from half"] <= 2 * 2
    # a kernel becomes half, and its gradient float32
    assert more["converts of the rest"] <= 2 * 2
