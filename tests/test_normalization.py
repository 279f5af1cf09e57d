"""Our normalization is Keras's, on one kernel, and its moving variance is unbiased."""

import numpy as np
import pytest
import tensorflow as tf

import keras_resnet
from keras_resnet.backend import keras
from keras_resnet.layers import BatchNormalization

MOMENTUM, EPSILON = 0.9, 1e-5
SHAPE = (4, 5, 3, 6)
HALF = {"float16": 2.0**-11, "bfloat16": 2.0**-8}  # largest relative rounding error


class Composed(BatchNormalization):
    """Ours where the fused kernel is not to be had, as on other backends."""

    def _fits_fused_kernel(self, inputs):
        return False


# (class, dtype, shape of the input): one fused, the others on composed operations
PATHS = {
    "fused": (BatchNormalization, "float32", SHAPE),
    "composed": (Composed, "float32", SHAPE),
    "float64": (BatchNormalization, "float64", SHAPE),
    "rank 2": (BatchNormalization, "float32", (40, 6)),
    "rank 3": (BatchNormalization, "float32", (8, 5, 6)),
}


def values(shape=SHAPE, dtype="float32", seed=0):
    """Of unequal means and scales by channel, so that statistics matter."""
    generator = np.random.default_rng(seed)
    channels = shape[-1]
    scale = np.linspace(0.5, 3, channels)
    offset = np.linspace(-2, 2, channels)
    return (generator.normal(size=shape) * scale + offset).astype(dtype)


def built(layer, shape=SHAPE):
    layer.build(shape)
    return unlike_fresh(layer)


def unlike_fresh(layer):
    """The layer with other weights than ones and zeros."""
    generator = np.random.default_rng(1)
    layer.set_weights(
        [
            generator.uniform(0.5, 1.5, value.shape).astype(value.dtype)
            for value in layer.get_weights()
        ]
    )
    return layer


def keras_own(**kwargs):
    return keras.layers.BatchNormalization(momentum=MOMENTUM, epsilon=EPSILON, **kwargs)


def outputs_and_gradients(layer, x, training):
    """Outputs, and the gradients of a weighted sum of them by x, gamma and beta."""
    x = tf.constant(x)
    variables = [v.value for v in (layer.gamma, layer.beta) if v is not None]
    with tf.GradientTape() as tape:
        tape.watch([x, *variables])
        y = layer(x, training=training)
        loss = tf.reduce_sum(y * values(x.shape, y.dtype.as_numpy_dtype, seed=2))
    gradients = tape.gradient(loss, [x, *variables])
    return [y.numpy(), *(gradient.numpy() for gradient in gradients)]


def operations(layer, dtype, training):
    """Types of the operations in a call's graph."""
    function = tf.function(lambda x: layer(x, training=training))
    spec = tf.TensorSpec([None, None, None, SHAPE[-1]], dtype)
    graph = function.get_concrete_function(spec).graph
    return [operation.type for operation in graph.get_operations()]


def assert_close(ours, theirs, tolerance=1e-5):
    """Within a tolerance in units of the largest value of theirs."""
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(
            mine, other, rtol=0, atol=tolerance * max(1, np.abs(other).max())
        )


@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False}])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("cls", [BatchNormalization, Composed])
def test_outputs_and_gradients_are_those_of_keras(cls, training, options):
    ours, theirs = built(cls(**options)), built(keras_own(**options))
    assert_close(
        outputs_and_gradients(ours, values(), training),
        outputs_and_gradients(theirs, values(), training),
    )
    assert_close([ours.moving_mean], [theirs.moving_mean])


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("path", PATHS)
def test_outputs_are_those_of_the_formula(path, training):
    cls, dtype, shape = PATHS[path]
    layer = built(cls(dtype=dtype), shape)
    gamma, beta, mean, variance = layer.get_weights()
    x = values(shape, dtype)
    axes = tuple(range(x.ndim - 1))
    if training:
        mean, variance = x.mean(axes), x.var(axes)
    expected = gamma * (x - mean) / np.sqrt(variance + EPSILON) + beta
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    assert_close([layer(x, training=training)], [expected], tolerance)


@pytest.mark.parametrize("path", PATHS)
def test_moving_variance_is_the_unbiased_one(path):
    cls, dtype, shape = PATHS[path]
    layer = built(cls(dtype=dtype), shape)
    _, _, old_mean, old_variance = layer.get_weights()
    x = values(shape, dtype)
    axes = tuple(range(x.ndim - 1))
    layer(x, training=False)
    assert_close(layer.get_weights()[2:], [old_mean, old_variance], 0)
    layer(x, training=True)
    mean = MOMENTUM * old_mean + (1 - MOMENTUM) * x.mean(axes)
    variance = MOMENTUM * old_variance + (1 - MOMENTUM) * x.var(axes, ddof=1)
    assert_close([layer.moving_mean], [mean], 1e-6)
    assert_close([layer.moving_variance], [variance], 1e-6)


def test_moving_variance_is_the_unbiased_one_where_the_batch_is_unknown():
    layer = built(Composed())
    old = layer.moving_variance.numpy()
    spec = tf.TensorSpec([None, None, None, SHAPE[-1]])
    tf.function(lambda x: layer(x, training=True), input_signature=[spec])(values())
    expected = MOMENTUM * old + (1 - MOMENTUM) * values().var((0, 1, 2), ddof=1)
    assert_close([layer.moving_variance], [expected], 1e-6)


@pytest.mark.parametrize("policy", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(1, 1, 1, 6), (1, 6)])
def test_moving_variance_of_one_value_is_finite(shape, policy):
    layer = built(BatchNormalization(dtype=policy), shape)
    old = layer.moving_variance.numpy()
    layer(values(shape, policy), training=True)
    assert_close([layer.moving_variance], [MOMENTUM * old], 1e-6)  # its variance is 0


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("cls", [BatchNormalization, Composed])
def test_half_precision_costs_one_rounding_and_statistics_are_float32(
    cls, dtype, training
):
    layer = built(cls(dtype=f"mixed_{dtype}"))
    gamma, beta, mean, variance = layer.get_weights()
    x = tf.cast(values(), dtype)
    exact = x.numpy().astype(
        "float64"
    )  # what the layer is given, without more rounding
    if training:
        old_mean, old_variance = mean, variance
        mean, variance = exact.mean((0, 1, 2)), exact.var((0, 1, 2))
    expected = gamma * (exact - mean) / np.sqrt(variance + EPSILON) + beta
    outputs = layer(x, training=training)
    assert outputs.dtype == dtype
    np.testing.assert_allclose(
        tf.cast(outputs, "float64"), expected, rtol=HALF[dtype] * 1.001, atol=1e-5
    )
    assert {v.dtype for v in layer.variables} == {"float32"}
    if training:
        unbiased = exact.var((0, 1, 2), ddof=1)
        assert_close(
            [layer.moving_mean, layer.moving_variance],
            [
                MOMENTUM * old_mean + (1 - MOMENTUM) * mean,
                MOMENTUM * old_variance + (1 - MOMENTUM) * unbiased,
            ],
        )


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("cls", [BatchNormalization, Composed])
def test_half_precision_costs_a_gradient_one_rounding(cls, dtype):
    layer = built(cls(dtype=f"mixed_{dtype}"))
    x, weights = tf.cast(values(), dtype), tf.cast(values(seed=2), dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = layer(x, training=True)
    sources = [x, layer.gamma.value, layer.beta.value]
    by_x, by_gamma, by_beta = tape.gradient(outputs, sources, output_gradients=weights)
    exact, weights = (tf.cast(tensor, "float64").numpy() for tensor in (x, weights))
    axes = (0, 1, 2)
    deviation = np.sqrt(exact.var(axes) + EPSILON)
    normal = (exact - exact.mean(axes)) / deviation
    expected = (
        layer.gamma.numpy()
        / deviation
        * (weights - weights.mean(axes) - normal * (weights * normal).mean(axes))
    )
    np.testing.assert_allclose(
        tf.cast(by_x, "float64"), expected, rtol=HALF[dtype] * 1.001, atol=1e-5
    )
    assert by_gamma.dtype == by_beta.dtype == "float32"
    assert_close([by_gamma, by_beta], [(weights * normal).sum(axes), weights.sum(axes)])


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype", ["float32", *HALF])
def test_call_runs_on_the_fused_kernel(dtype, training):
    policy = dtype if dtype == "float32" else f"mixed_{dtype}"
    layer = built(BatchNormalization(dtype=policy))
    assert operations(layer, dtype, training).count("FusedBatchNormV3") == 1
    theirs = built(keras_own(dtype=policy))
    assert "FusedBatchNormV3" not in operations(theirs, dtype, training)


@pytest.mark.parametrize("training", [False, True])
def test_half_precision_is_not_widened_around_the_fused_kernel(training):
    layer = built(BatchNormalization(dtype="mixed_float16"))
    function = tf.function(lambda x: layer(x, training=training))
    spec = tf.TensorSpec(SHAPE, "float16")
    graph = function.get_concrete_function(spec).graph
    whole = [
        output
        for operation in graph.get_operations()
        for output in operation.outputs
        if output.shape.rank == 4 and output.shape.num_elements() == np.prod(SHAPE)
    ]
    assert {output.dtype for output in whole} == {tf.float16}


@pytest.mark.parametrize("training", [False, True])
def test_float64_is_composed(training):
    layer = built(BatchNormalization(dtype="float64"))
    assert "FusedBatchNormV3" not in operations(layer, "float64", training)


@pytest.mark.parametrize("cls", [BatchNormalization, Composed])
def test_frozen_layer_keeps_to_its_moving_statistics(cls):
    layer = built(cls())
    before = layer.get_weights()
    gamma, beta, mean, variance = before
    layer.trainable = False
    x = values()
    outputs, by_x, by_gamma, by_beta = outputs_and_gradients(layer, x, training=True)
    normal = (x - mean) / np.sqrt(variance + EPSILON)
    weights = values(seed=2)
    assert_close(
        [outputs, by_x, by_gamma, by_beta],
        [
            gamma * normal + beta,
            weights * gamma / np.sqrt(variance + EPSILON),
            (weights * normal).sum((0, 1, 2)),
            weights.sum((0, 1, 2)),
        ],
    )
    assert_close(layer.get_weights(), before, 0)


@pytest.mark.parametrize("ours_first", [True, False])
def test_weights_files_go_to_and_from_keras_own_layer(ours_first, tmp_path):
    makers = (BatchNormalization, keras_own)
    first, second = (
        keras.Sequential([keras.Input(SHAPE[1:]), maker(name="norm")], name="net")
        for maker in (makers if ours_first else reversed(makers))
    )
    unlike_fresh(first.layers[0])
    first.save_weights(tmp_path / "norm.weights.h5")
    second.load_weights(tmp_path / "norm.weights.h5")
    assert_close(second.get_weights(), first.get_weights(), 0)
    assert [v.path for v in second.variables] == [v.path for v in first.variables]
    assert_close([second(values())], [first(values())])


def normalizations(model):
    return [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]


def test_every_normalization_of_a_net_is_of_the_kind_that_was_asked_for(tmp_path):
    fused, own = (
        keras_resnet.create(
            "resnet18d",
            width=8,
            classes=3,
            classifier_activation=None,
            fused_batch_norm=fused,
        )
        for fused in (True, False)
    )
    # 3 in the stem, 2 in each of 8 blocks and one in each of 3 projections
    assert [type(layer) for layer in normalizations(fused)] == [BatchNormalization] * 22
    assert [type(layer) for layer in normalizations(own)] == [
        keras.layers.BatchNormalization
    ] * 22
    for layer in normalizations(own) + normalizations(fused):
        assert (layer.momentum, layer.epsilon) == (MOMENTUM, EPSILON)
    for layer in normalizations(fused):
        unlike_fresh(layer)
    fused.save_weights(tmp_path / "net.weights.h5")
    own.load_weights(tmp_path / "net.weights.h5")
    x = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    assert_close([own.predict(x, verbose=0)], [fused.predict(x, verbose=0)])


def test_gamma_and_beta_can_be_left_out():
    layer = BatchNormalization(scale=False, center=False)
    x = values()
    outputs = layer(x, training=True)
    assert [v.name for v in layer.variables] == ["moving_mean", "moving_variance"]
    axes = (0, 1, 2)
    expected = (x - x.mean(axes)) / np.sqrt(x.var(axes) + EPSILON)
    assert_close([outputs], [expected])


def test_masked_values_do_not_count():
    layer = BatchNormalization()
    x = values((8, 5, 6))
    mask = np.arange(5) < 3
    layer(x, training=True, mask=np.broadcast_to(mask, (8, 5)))
    assert_close([layer.moving_mean], [(1 - MOMENTUM) * x[:, :3].mean((0, 1))], 1e-6)


def test_defaults_are_the_familys():
    config = BatchNormalization().get_config()
    assert (config["momentum"], config["epsilon"]) == (MOMENTUM, EPSILON)
