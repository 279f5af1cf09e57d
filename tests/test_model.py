"""The nets: built from the table, saved and reloaded whole, exact on every backend."""

import contextlib
import dataclasses
import gc
import inspect
import json
import math
import os
import random
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import tensorflow as tf
from conftest import narrow, variants

import keras_resnet
from keras_resnet.backend import keras
from keras_resnet.complexity import complexity
from keras_resnet.config import IMAGENET_MEAN, IMAGENET_STD, VARIANTS, ResNetConfig
from keras_resnet.export import fold_batch_norm
from keras_resnet.model import ResNet, rebuild
from keras_resnet.opening import open_model

SMALL = {
    "width": 8,
    "depths": (1, 1, 1),
    "classes": 5,
    "input_shape": (32, 32, 3),
    "classifier_activation": None,
}
# one net for each feature of the table
NETS = {
    "resnet18b": {"shortcut": "zero_pad"},
    "resnet34b": {"shortcut": "none", "zero_gamma": False},
    "resnet18vd": {},
    "resnet50a": {"project_always": True},
    "resnet50t": {"dropout": 0.2},
    "seresnet50d": {"drop_path": 0.2},
    "ecaresnet50d": {"output_stride": 8},
    "resnext50d_32x4d": {"groups": 4, "group_width": 32, "fused_batch_norm": False},
    "resnetaa50d": {},
    "resnetblur50": {"output_stride": 8},
    "resnetrs50": {},
    "resnet50_gn": {"width": 32},
    "senet154": {"groups": 4, "group_width": 64},
}
# moving means and variances at 1000 classes, as counted from the originals
STATISTICS = {
    "resnet18d": 9_728,
    "resnet34d": 17_152,
    "resnet26d": 30_976,
    "resnet50d": 53_248,
    "resnet101d": 105_472,
    "resnet152d": 151_552,
    "resnet200d": 176_128,
    "resnet200vd": 194_560,
    "resnet18vd": 11_722_824 - 11_712_968,
    "resnet34vd": 21_838_408 - 21_821_128,
}


def some_nets():
    """Each of them as a parameter, of which six are quick."""
    quick = {"resnet18b", "resnet18vd", "resnet50t", "ecaresnet50d", "resnet50_gn"}
    quick |= {"resnext50d_32x4d"}
    return [
        pytest.param(name, marks=() if name in quick else pytest.mark.slow)
        for name in NETS
    ]


@pytest.fixture(scope="module", autouse=True)
def _frozen_heap():
    """Building is half as long again where each collection walks all of TensorFlow."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


def small(name, **changes):
    return unlike_fresh(keras_resnet.create(name, **(SMALL | changes)))


def unlike_fresh(model):
    """The model with gammas, betas, biases and statistics unlike ones and zeros."""
    generator = np.random.default_rng(1)
    for variable in model.variables:
        shape = variable.shape
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(generator.uniform(0.5, 1.5, shape))
        elif variable.name in ("beta", "bias", "moving_mean"):
            variable.assign(generator.normal(0, 0.1, shape))
    return model


def pixels(side=32, batch=3):
    """Float RGB in [0, 255], between the whole values."""
    shape = (batch, side, side, 3)
    return np.random.default_rng(2).uniform(0, 255, shape).astype("float32")


def normalized(images):
    return ((images / 255 - IMAGENET_MEAN) / IMAGENET_STD).astype("float32")


def call(model, inputs, **kwargs):
    return keras.ops.convert_to_numpy(model(inputs, **kwargs))


def assert_equal(ours, theirs, tolerance=1e-5):
    """Within a tolerance in standard deviations of theirs."""
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= tolerance * theirs.std()


def assert_same_weights(ours, theirs):
    assert [v.path for v in ours.weights] == [v.path for v in theirs.weights]
    for mine, other in zip(ours.weights, theirs.weights):
        assert mine.dtype == other.dtype
        np.testing.assert_array_equal(mine, other)


@contextlib.contextmanager
def shapes_only():
    """A scope where variables have no values: the nets of the table hold 8 GB."""
    if not hasattr(keras, "StatelessScope"):  # before Keras 3
        yield
        keras.backend.clear_session()
        return
    with keras.StatelessScope(initialize_variables=False):
        yield
    # Keras keeps a list, to give them values when the next scope ends
    keras.backend.clear_session(free_memory=False)


def sizes(variables):
    return sum(math.prod(variable.shape) for variable in variables)


@pytest.mark.addons
@pytest.mark.parametrize("name", variants())
def test_built_net_has_the_published_parameter_count(name):
    with shapes_only():
        model = keras_resnet.create(name)
    # test_config.py compares these with the published counts
    assert sizes(model.trainable_variables) == complexity(model.info.config)[0]
    if name in STATISTICS:
        assert sizes(model.non_trainable_variables) == STATISTICS[name]
    assert model.input_shape == (None, None, None, 3)
    assert model.output_shape == (None, 1000)


@pytest.mark.parametrize("name", NETS)
def test_counts_by_arithmetic_are_those_of_the_built_net(name):
    with shapes_only():
        model = keras_resnet.create(name, **(SMALL | NETS[name]))
    parameters, _ = complexity(model.info.config, classes=5)
    assert sizes(model.trainable_variables) == parameters


def traced_multiply_adds(model, size):
    """Of the convolutions and products of matrices in the graph of a call."""
    spec = tf.TensorSpec([1, size, size, 3])
    graph = tf.function(model).get_concrete_function(spec).graph
    return sum(
        math.prod(operation.inputs[1].shape)
        * (operation.outputs[0].shape.num_elements() // operation.inputs[1].shape[-1])
        for operation in graph.get_operations()
        if operation.type in ("Conv2D", "MatMul")
    )


@pytest.mark.parametrize(
    ("name", "changes", "size"),
    [
        ("resnet18b", {"shortcut": "zero_pad"}, 75),
        ("resnet18b", {"shortcut": "none", "zero_gamma": False}, 75),
        ("resnet50a", {"project_always": True}, 75),
        ("seresnet50d", {}, 75),
        ("ecaresnet50d", {}, 75),
        ("resnetaa50d", {}, 75),
        ("resnetblur50", {"block": "basic"}, 75),
        ("resnetrs50", {}, 75),
        ("senet154", {"groups": 1, "group_width": 64}, 75),
        # TensorFlow rounds the sides of a dilated convolution up to the dilation
        ("resnet18vd", {"output_stride": 8}, 64),
        ("resnet50t", {"output_stride": 8, "depths": (1, 1, 2, 1)}, 64),
    ],
)
def test_multiply_adds_by_arithmetic_are_those_of_the_graph(name, changes, size):
    model = small(name, **changes, input_shape=None)
    _, multiply_adds = complexity(model.info.config, size, classes=5)
    assert traced_multiply_adds(model, size) == multiply_adds


@pytest.mark.addons
@pytest.mark.parametrize("name", some_nets())
def test_net_comes_back_from_its_files_to_the_bit(name, tmp_path):
    model = small(name, **NETS[name])
    model.save(tmp_path / "net.keras")
    model.save_weights(tmp_path / "net.weights.h5")
    reloaded = keras.models.load_model(tmp_path / "net.keras")
    assert type(reloaded) is ResNet
    assert reloaded.info == model.info
    refilled = keras_resnet.create(
        name, weights=tmp_path / "net.weights.h5", **(SMALL | NETS[name])
    )
    answers = model(pixels())
    for again in (reloaded, refilled):
        assert_same_weights(again, model)
        np.testing.assert_array_equal(again(pixels()), answers)


@pytest.mark.addons
@pytest.mark.parametrize("later", ["float32", "mixed_float16"])
@pytest.mark.parametrize(
    "dtypes", ["mixed_float16", pytest.param("mixed_bfloat16", marks=pytest.mark.slow)]
)
def test_half_precision_net_answers_in_float32_also_after_reload(
    dtypes, later, tmp_path, policy
):
    policy(dtypes)
    model = small("seresnet50d")
    model.save(tmp_path / "net.keras")
    policy(later)
    again = keras.models.load_model(tmp_path / "net.keras")
    for net in (model, again):
        convolution = net.get_layer("stage3_block0").conv2.conv
        assert convolution.compute_dtype == dtypes.removeprefix("mixed_")
        answers = [net(pixels()), net(pixels(), training=True)]
        wide = [*net.variables, net.output, *answers]
        assert {keras.backend.standardize_dtype(x.dtype) for x in wide} == {"float32"}
    again.set_weights(model.get_weights())  # training has moved the statistics
    np.testing.assert_array_equal(again(pixels()), model(pixels()))


@pytest.mark.parametrize("dtypes", ["float16", "bfloat16", "float64"])
def test_pure_policies_answer_in_float32_at_least(dtypes, policy):
    policy(dtypes)
    model = small("ecaresnet50d")
    expected = "float64" if dtypes == "float64" else "float32"
    answers = call(model, pixels())
    assert answers.dtype == expected
    assert np.isfinite(answers).all()


@pytest.mark.parametrize("dtypes", ["mixed_float16", "mixed_bfloat16"])
def test_pixels_are_normalized_in_float32(dtypes, policy):
    policy(dtypes)
    model = small("resnet18d")
    first = keras.Model(model.input, model.get_layer("preprocessing").output)
    answers = first.predict(pixels(), verbose=0)
    np.testing.assert_allclose(answers, normalized(pixels()), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NETS)
def test_no_layer_is_a_lambda(name):
    with shapes_only():
        model = keras_resnet.create(name, **(SMALL | NETS[name]))
    every = model._flatten_layers()
    assert not [layer for layer in every if isinstance(layer, keras.layers.Lambda)]


@pytest.mark.addons
def test_layers_and_variables_are_named_by_where_they_stand():
    model = small("resnet50d", depths=(1, 2, 1))
    assert [layer.name for layer in model.layers] == [
        "images",
        "preprocessing",
        "stem",
        "stage1_block0",
        "stage2_block0",
        "stage2_block1",
        "stage3_block0",
        "pool",
        "head",
    ]
    paths = [variable.path for variable in model.variables]
    assert len(set(paths)) == len(paths)
    for layer in model.layers:
        for variable in layer.variables:
            assert variable.path.startswith(f"{layer.name}/")
    conv2 = model.get_layer("stage3_block0").conv2
    assert [variable.path for variable in conv2.variables] == [
        "stage3_block0/conv2/conv/kernel",
        "stage3_block0/conv2/norm/gamma",
        "stage3_block0/conv2/norm/beta",
        "stage3_block0/conv2/norm/moving_mean",
        "stage3_block0/conv2/norm/moving_variance",
    ]
    assert {"stem/conv3/conv/kernel", "head/kernel", "head/bias"} < set(paths)
    assert "stage2_block0/shortcut/projection/conv/kernel" in paths


@pytest.mark.parametrize(
    ("output_stride", "sides"),
    [
        pytest.param(32, (24, 12, 6, 3), marks=pytest.mark.slow),
        pytest.param(16, (24, 12, 6, 6), marks=pytest.mark.slow),
        (8, (24, 12, 12, 12)),
    ],
)
def test_pyramid_has_the_static_strides_also_after_reload(
    output_stride, sides, tmp_path
):
    model = keras_resnet.backbone(
        "resnet50d",
        input_shape=(96, 96, 3),
        output_stride=output_stride,
        width=8,
        depths=(1, 2, 1, 2),
    )
    model.save(tmp_path / "net.keras")
    for net in (model, keras.models.load_model(tmp_path / "net.keras")):
        assert {level: x.shape for level, x in net.pyramid_outputs.items()} == {
            f"P{level}": (None, side, side, 2**level * 8)
            for level, side in zip((2, 3, 4, 5), sides)
        }
        detector = keras.Model(net.input, net.pyramid_outputs)
        images = pixels(96, batch=1)
        np.testing.assert_array_equal(detector(images)["P5"], net(images))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "output_stride"),
    [
        ("resnet18c", 8),
        ("resnet18c", 16),
        ("resnet50a", 8),
        ("resnet50a", 16),
        ("resnet50b", 8),
        ("resnet50b", 16),
        ("resnetblur50", 16),
    ],
)
def test_dilated_net_agrees_with_the_strided_one_where_both_look(name, output_stride):
    # true where striding is skipping, so not of ResNet-D's average pool; and not of two
    # stages of blurs, since the second one, as in timm, is not dilated
    options = {"width": 8, "depths": (1, 2, 2, 2)}
    strided = unlike_fresh(keras_resnet.backbone(name, **options))
    dilated = keras_resnet.backbone(name, output_stride=output_stride, **options)
    dilated.set_weights(strided.get_weights())
    dense, sparse = (call(net, pixels(80)) for net in (dilated, strided))
    step = 32 // output_stride
    assert_equal(dense[:, ::step, ::step], sparse)
    assert dense.shape[1] == 80 // output_stride


@pytest.mark.slow
def test_every_variant_is_saved_folded_dilated_and_has_a_pyramid(tmp_path):
    wrong, seen = {}, set()
    for name, config in VARIANTS.items():
        fields = {"width": narrow(name), "depths": (1, 1, 2, 1), "drop_path": 0.1}
        narrowed = config.replace(**fields)
        if narrowed in seen:  # as another depth of the same net
            continue
        seen.add(narrowed)
        net = unlike_fresh(keras_resnet.create(name, **fields, classes=5))
        problems = wrong[name] = []
        parameters, _ = complexity(narrowed, classes=5)
        if sizes(net.trainable_variables) != parameters:
            problems.append("complexity")
        net.save(tmp_path / "net.keras")
        answers = call(net, pixels(64))
        if not np.array_equal(
            call(open_model(tmp_path / "net.keras"), pixels(64)), answers
        ):
            problems.append("saving")
        folded = call(fold_batch_norm(net), pixels(64))
        if np.abs(folded - answers).max() > 1e-5:
            problems.append("folding")
        fresh = keras_resnet.create(name, **fields, classes=5)
        last = "conv2" if narrowed.block == "basic" else "conv3"
        gammas = [
            getattr(it, last).norm.gamma for it in fresh.layers if "block" in it.name
        ]
        if any(np.any(gamma) for gamma in gammas):
            problems.append("zero gamma")
        body = keras_resnet.backbone(name, output_stride=8, **fields)
        shapes = [tuple(w.shape) for w in net.weights if not w.path.startswith("head/")]
        if [tuple(weight.shape) for weight in body.weights] != shapes:
            problems.append("dilation")
        levels = keras.Model(body.input, body.pyramid_outputs)(pixels(64))
        if [x.shape[1] for x in levels.values()] != [16, 8, 8, 8]:
            problems.append("pyramid")
        keras.backend.clear_session()
    assert len(seen) > 30
    assert {name: it for name, it in wrong.items() if it} == {}


@pytest.mark.parametrize("name", ["resnet18d", "resnet50d", "resnet50t"])
def test_dilated_net_has_the_same_weights(name):
    strided, dilated = small(name), small(name, output_stride=8)
    assert [v.path for v in dilated.variables] == [v.path for v in strided.variables]
    assert [v.shape for v in dilated.variables] == [v.shape for v in strided.variables]


def test_features_come_out_without_the_top():
    options = {"width": 8, "input_shape": (64, 96, 3), "include_top": False}
    bare = unlike_fresh(keras_resnet.create("resnet18d", **options))
    features = call(bare, np.zeros((2, 64, 96, 3)))
    assert features.shape == (2, 2, 3, 64)
    assert bare.output_shape == (None, 2, 3, 64)
    for pooling, pool in (("avg", np.mean), ("max", np.max)):
        pooled = keras_resnet.create("resnet18d", pooling=pooling, **options)
        pooled.set_weights(bare.get_weights())
        answers = call(pooled, np.zeros((2, 64, 96, 3)))
        assert_equal(answers, pool(features, axis=(1, 2)))


def test_head_is_the_average_of_the_features_and_one_product():
    model = small("resnet18d")
    bare = keras.Model(model.input, model.get_layer("stage3_block0").output)
    pooled = call(bare, pixels()).mean((1, 2))
    kernel, bias = model.get_layer("head").get_weights()
    assert_equal(call(model, pixels()), pooled @ kernel + bias)
    certain = small("resnet18d", classifier_activation="softmax")
    certain.set_weights(model.get_weights())
    odds = np.exp(call(model, pixels()))
    assert_equal(call(certain, pixels()), odds / odds.sum(1, keepdims=True))


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_pixels_are_normalized_in_the_graph(dtype):
    images = pixels().astype(dtype)
    inside = small("resnet18d")
    outside = small("resnet18d", include_preprocessing=False)
    outside.set_weights(inside.get_weights())
    assert_equal(call(inside, images), call(outside, normalized(images)))


def test_other_channels_are_welcome_without_preprocessing_or_with_their_own_mean():
    shape = {"input_shape": (32, 32, 2)}
    assert small("resnet18d", include_preprocessing=False, **shape).input_shape[-1] == 2
    model = small("resnet18d", mean=(0.5, 0.4), std=(0.1, 0.2), **shape)
    first = keras.Model(model.input, model.get_layer("preprocessing").output)
    images = pixels()[..., :2]
    expected = (images / 255 - (0.5, 0.4)) / (0.1, 0.2)
    np.testing.assert_allclose(call(first, images), expected, rtol=0, atol=2e-6)


# another value for every field
OVERRIDES = {
    "depths": (1, 2, 1),
    "block": "basic",
    "width": 16,
    "stem": "conv7",
    "stem_width": 6,
    "stem_pool": "conv",
    "shortcut": "zero_pad",
    "projection_size": 3,
    "project_always": True,
    "first_stage_projection": True,
    "stride_on_first": True,
    "anti_alias": "blur",
    "attention": "eca",
    "se_ratio": 0.25,
    "groups": 2,
    "group_width": 32,
    "reduce_first": 2,
    "zero_gamma": False,
    "drop_path": 0.1,
    "dropout": 0.1,
    "output_stride": 8,
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "normalization": "group",
    "fused_batch_norm": False,
}
# what a value needs beside it
COMPANIONS = {
    "projection_size": {"shortcut": "projection"},
    "se_ratio": {"attention": "se", "width": 32},
    "normalization": {"fused_batch_norm": False, "width": 64},
}


def test_every_override_is_tested_here():
    assert OVERRIDES.keys() == {
        field.name for field in dataclasses.fields(ResNetConfig)
    }


@pytest.mark.parametrize("field", OVERRIDES)
def test_every_override_makes_another_net(field):
    options = SMALL | COMPANIONS.get(field, {})
    with shapes_only():
        plain = keras_resnet.create("resnet50d", **options)
    other = keras_resnet.create("resnet50d", **(options | {field: OVERRIDES[field]}))
    assert getattr(other.info.config, field) == OVERRIDES[field]
    assert other.get_config()["layers"] != plain.get_config()["layers"]
    answers = call(other, pixels())
    assert answers.shape == (3, 5)
    assert np.isfinite(answers).all()


@pytest.mark.parametrize("zero_gamma", [False, True])
def test_only_the_last_gammas_of_branches_start_at_zero(zero_gamma):
    model = keras_resnet.create("resnet50d", **SMALL, zero_gamma=zero_gamma)
    for variable in model.variables:
        if variable.name == "gamma":
            last = (
                zero_gamma and "/conv3/" in variable.path and "stage" in variable.path
            )
            np.testing.assert_array_equal(variable, np.full(variable.shape, not last))


def test_stochastic_depth_grows_linearly_from_zero():
    model = small("resnet50d", depths=(3, 4, 6, 3), drop_path=0.3)
    blocks = [layer for layer in model.layers if "_block" in layer.name]
    rates = [block.drop_path.rate for block in blocks]
    np.testing.assert_allclose(rates, np.linspace(0, 0.3, 16), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "resnet50"}, ValueError, "name='resnet50'.*resnet50a, .*resnet50d"),
        ({"name": "resnet51d"}, ValueError, "name='resnet51d'.*list_models.*resnet50d"),
        ({"name": 50}, ValueError, r"name=50: .*list_models"),
        ({"depth": 50}, TypeError, "unknown override depth: .*depths"),
        ({"output_stride": 4}, ValueError, "output_stride=4: .*8, 16, 32"),
        ({"input_shape": (32, 32, 2)}, ValueError, r"input_shape=\(32, 32, 2\): .*3"),
        ({"input_shape": (32, 32)}, ValueError, r"input_shape=\(32, 32\): .*height"),
        ({"input_shape": (0, 32, 3)}, ValueError, r"input_shape=\(0, 32, 3\): .*posit"),
        ({"input_shape": 224}, ValueError, "input_shape=224: .*height"),
        ({"input_shape": "224"}, ValueError, "input_shape='224': .*height"),
        ({"input_shape": (32, 32, None)}, ValueError, r"input_shape=.*None\): .*chann"),
        ({"classes": 0}, ValueError, "classes=0: .*positive integer"),
        ({"classes": -1}, ValueError, "classes=-1: .*positive integer"),
        ({"classes": 10.0}, ValueError, r"classes=10\.0: .*positive integer"),
        ({"classes": True}, ValueError, "classes=True: .*positive integer"),
        ({"classifier_activation": "sotfmax"}, ValueError, "classifier_activation='so"),
        ({"classes": "ten"}, ValueError, "classes='ten': .*positive integer"),
        ({"pooling": "avg"}, ValueError, "pooling='avg': .*include_top"),
        (
            {"pooling": "mean", "include_top": False},
            ValueError,
            "pooling='mean': .*None, 'avg' or 'max'",
        ),
        (
            {"bottleneck": True, "wide": 2},
            TypeError,
            "override bottleneck, wide: .*width",
        ),
        ({"width": 0}, ValueError, "width=0: .*positive integer"),
        ({"stem": "patch"}, ValueError, "stem='patch': .*'conv7', 'deep'"),
        ({"attention": "cbam"}, ValueError, "attention='cbam': .*'se', 'eca'"),
        ({"drop_path": 1}, ValueError, r"drop_path=1: .*\[0, 1\)"),
        ({"mean": (124, 117, 104)}, ValueError, r"mean=\(124, 117, 104\): .*255"),
        ({"weights": "no/such.weights.h5"}, ValueError, "no/such.weights.h5: no such"),
    ],
)
def test_bad_argument_is_one_error_that_names_it_and_its_value(
    arguments, error, message
):
    with pytest.raises(error, match=message):
        keras_resnet.create(**({"name": "resnet18d", "width": 8} | arguments))


def test_channels_first_is_refused_by_name():
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match="image_data_format='channels_first'"):
            keras_resnet.create("resnet18d", width=8)
    finally:
        keras.config.set_image_data_format("channels_last")


def test_clone_is_the_same_net():
    model = small("seresnet50d", drop_path=0.1)
    model.get_layer("stage2_block0").conv1.trainable = False
    clone = keras.models.clone_model(model)
    assert type(clone) is ResNet
    assert clone.info == model.info
    assert learning(clone) == learning(model)
    on_another_input = keras.models.clone_model(
        model, keras.Input((32, 32, 3), name="others")
    )
    assert on_another_input.info == model.info
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(clone(pixels()), model(pixels()))
    shapes = {level: x.shape for level, x in model.pyramid_outputs.items()}
    assert {level: x.shape for level, x in clone.pyramid_outputs.items()} == shapes


def learning(model):
    return [variable.path for variable in model.trainable_weights]


def with_new_head(backbone):
    x = keras.layers.GlobalAveragePooling2D()(backbone.output)
    outputs = keras.layers.Dense(3, activation="softmax")(x)
    return keras.Model(backbone.input, outputs)


def nested(backbone):
    images = keras.Input((32, 32, 3))
    x = keras.layers.GlobalAveragePooling2D()(backbone(images))
    return keras.Model(images, keras.layers.Dense(3, activation="softmax")(x))


def part_frozen(backbone):
    backbone.get_layer("stem").trainable = False
    block = backbone.get_layer("stage2_block0")
    block.conv1.trainable = False
    block.conv2.norm.trainable = False
    block.attention.trainable = False
    block.shortcut.projection.norm.frozen_statistics = True
    # within what is frozen, one that learns
    backbone.get_layer("stage3_block0").trainable = False
    backbone.get_layer("stage3_block0").conv2.conv.trainable = True
    return with_new_head(backbone)


def all_frozen(backbone):
    backbone.trainable = False
    return with_new_head(backbone)


def nested_and_frozen(backbone):
    backbone.trainable = False
    return nested(backbone)


@pytest.mark.slow
@pytest.mark.parametrize(
    "frozen",
    [all_frozen, nested_and_frozen, part_frozen],
)
def test_what_is_frozen_is_so_after_reload_too(frozen, tmp_path):
    options = {"width": 8, "depths": (1, 1, 1), "input_shape": (32, 32, 3)}
    backbone = unlike_fresh(keras_resnet.backbone("seresnet50d", **options))
    model = frozen(backbone)
    model.save(tmp_path / "net.keras")
    again = keras.models.load_model(tmp_path / "net.keras")
    assert learning(again) == learning(model)
    assert len(learning(model)) == 2 or frozen is part_frozen
    before = {v.path: np.array(v) for v in again.weights}
    again.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    again.fit(pixels(), np.array([0, 1, 2]), verbose=0)
    moved = {v.path for v in again.weights if (np.array(v) != before[v.path]).any()}
    keeps = {
        f"stage2_block0/{part}/"
        for part in ("conv1", "conv2/norm", "attention", "shortcut/projection/norm/m")
    }
    keeps = {"stem/", "stage3_block0/conv1/norm/", *keeps}
    if frozen is part_frozen:
        assert "stage2_block0/shortcut/projection/norm/gamma" in moved
        assert "stage1_block0/conv1/norm/moving_mean" in moved
        assert "stage3_block0/conv2/conv/kernel" in moved
        assert not [path for path in moved for keep in keeps if path.startswith(keep)]
    else:
        assert moved == set(learning(model))


@pytest.mark.addons
def test_own_loader_freezes_what_was_frozen(tmp_path):
    model = small("seresnet50d")
    model.get_layer("stem").trainable = False
    block = model.get_layer("stage2_block0")
    block.conv1.trainable = False
    block.conv2.norm.frozen_statistics = True
    model.save(tmp_path / "net.keras")
    again = open_model(tmp_path / "net.keras")
    assert learning(again) == learning(model)
    assert again.get_layer("stage2_block0").conv2.norm.frozen_statistics
    assert not again.get_layer("stage2_block0").conv3.norm.frozen_statistics
    model.trainable = False
    model.save(tmp_path / "net.keras")
    again = open_model(tmp_path / "net.keras")
    assert learning(again) == []
    assert not again.get_layer("stage1_block0").conv1.norm.trainable


@pytest.mark.addons
def test_file_of_a_net_as_built_names_no_part_and_takes_no_random_numbers(tmp_path):
    model = small("seresnet50d", depths=(2, 2, 2, 2))
    state = random.getstate()
    model.save(tmp_path / "net.keras")
    assert random.getstate() == state
    with zipfile.ZipFile(tmp_path / "net.keras") as file:
        assert b'"parts"' not in file.read("config.json")


def test_changed_part_comes_back_from_files(tmp_path):
    model = small("resnet50d")
    assert "parts" not in json.dumps(model.get_config())
    block = model.get_layer("stage2_block0")
    block.conv2.norm.momentum = 0.5
    block.drop_path.rate = 0.25
    model.save(tmp_path / "net.keras")
    again = keras.models.load_model(tmp_path / "net.keras")
    block = again.get_layer("stage2_block0")
    assert (block.conv2.norm.momentum, block.conv3.norm.momentum) == (0.5, 0.9)
    assert block.drop_path.rate == 0.25
    assert json.dumps(again.get_config()) == json.dumps(model.get_config())


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_quantized_net_answers_near_the_float_one_and_comes_back(tmp_path):
    model = small("seresnet50d", classifier_activation="softmax")
    expected = call(model, pixels())
    model.quantize("int8")
    assert model.get_layer("head").quantization_mode == "int8"
    answers = call(model, pixels())
    assert 0 < np.abs(answers - expected).max() < 0.02
    model.save(tmp_path / "net.keras")
    again = keras.models.load_model(tmp_path / "net.keras")
    assert again.get_layer("head").quantization_mode == "int8"
    np.testing.assert_array_equal(call(again, pixels()), answers)


def test_no_layer_is_made_that_is_not_used():
    model = small("resnet50b", depths=(1, 2))
    paddings = {
        part.name: part.padding[0][0]
        for layer in model.layers
        for conv in layer._flatten_layers()
        for part in [getattr(conv, "pad", None)]
        if part is not None
    }
    assert 0 not in paddings.values()
    assert all(layer.built for layer in model._flatten_layers())
    assert model.get_layer("stage1_block0").conv2.pad is None  # stride 1
    assert model.get_layer("stage2_block0").shortcut.projection.pad is None  # 1x1


@pytest.mark.addons
def test_two_nets_of_a_variant_are_one_model_under_names(tmp_path):
    options = SMALL | {"classifier_activation": "softmax"}
    left = keras_resnet.create("resnet18d", name="left", **options)
    right = keras_resnet.ResNet18D(name="right", **options)
    assert (left.name, right.name) == ("left", "right")
    assert keras_resnet.backbone("resnet18d", width=8, name="eyes").name == "eyes"
    images = keras.Input((32, 32, 3))
    both = keras.Model(images, [left(images), right(images)])
    both.save(tmp_path / "both.keras")
    again = keras.models.load_model(tmp_path / "both.keras")
    for ours, theirs in zip(again(pixels()), both(pixels())):
        np.testing.assert_array_equal(ours, theirs)
    assert rebuild(left).name == "left"
    assert keras_resnet.create(name="resnet18d", **options).info == left.info
    with pytest.raises(ValueError, match=r"name=None: must be a name"):
        keras_resnet.create()


@pytest.mark.addons
def test_net_is_built_on_a_tensor(tmp_path):
    images = keras.Input((32, 32, 3), dtype="uint8", name="photos")
    model = small("resnet18d", input_shape=None, input_tensor=images)
    assert model.input is images
    assert model.info.input_shape == (32, 32, 3)
    plain = small("resnet18d")
    assert model.info == plain.info
    plain.set_weights(model.get_weights())
    whole = pixels().astype("uint8")
    np.testing.assert_array_equal(call(model, whole), call(plain, whole))
    before = keras.Input((16, 16, 3))
    larger = keras.layers.UpSampling2D(2)(before)
    model = keras_resnet.ResNet18D(input_tensor=larger, **SMALL | {"input_shape": None})
    assert model.input_shape == (None, 16, 16, 3)
    plain.set_weights(model.get_weights())
    upsampled = pixels(16).repeat(2, 1).repeat(2, 2)
    np.testing.assert_array_equal(call(model, pixels(16)), call(plain, upsampled))
    model.save(tmp_path / "net.keras")
    again = keras.models.load_model(tmp_path / "net.keras")
    np.testing.assert_array_equal(call(again, pixels(16)), call(model, pixels(16)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"input_tensor": np.zeros((1, 32, 32, 3))},
            "input_tensor=<ndarray>: must be a Keras tensor",
        ),
        (
            {"input_tensor": keras.Input((32, 32))},
            r"shape \(None, 32, 32\); must be \[N",
        ),
        (
            {"input_tensor": keras.Input((32, 32, 3)), "input_shape": (64, 64, 3)},
            r"input_shape=\(64, 64, 3\) with an input_tensor of shape \(None, 32",
        ),
        ({"input_tensor": keras.Input((32, 32, 1))}, r"must have 3 channels"),
    ],
)
def test_tensor_that_fits_no_net_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        keras_resnet.backbone("resnet18d", **arguments)


CAP_WORDS = {
    "resnet18b": "ResNet18B",
    "resnet50d": "ResNet50D",
    "resnet50t": "ResNet50T",
    "resnet200vd": "ResNet200VD",
    "seresnet152d": "SEResNet152D",
    "ecaresnet101d": "ECAResNet101D",
    "resnext50d_32x4d": "ResNeXt50D_32x4d",
    "seresnext101d_32x8d": "SEResNeXt101D_32x8d",
    "wide_resnet50_2": "WideResNet50_2",
    "senet154": "SENet154",
    "resnet50_gn": "ResNet50_GN",
    "ecaresnetlight": "ECAResNetLight",
    "resnetblur50": "ResNetBlur50",
    "resnetrs420": "ResNetRS420",
    "seresnextaa101d_32x8d": "SEResNeXtAA101D_32x8d",
}


@pytest.mark.parametrize("name", variants())
def test_constructor_of_each_variant_makes_the_same_net(name):
    public = keras_resnet.__all__
    plain = name.replace("_", "")
    (constructor,) = (it for it in public if it.lower().replace("_", "") == plain)
    assert constructor == CAP_WORDS.get(name, constructor)
    function = getattr(keras_resnet, constructor)
    assert function.__name__ == constructor
    assert constructor in keras_resnet.__all__
    options = {"width": narrow(name), "depths": (1, 1), "classes": 3}
    with shapes_only():
        ours = function(**options)
        theirs = keras_resnet.create(name, **options)
    assert json.dumps(ours.get_config()) == json.dumps(theirs.get_config())
    assert ours.info == theirs.info


def test_constructors_take_the_arguments_of_create():
    of_create = list(inspect.signature(keras_resnet.create).parameters.values())
    of_ours = inspect.signature(keras_resnet.ResNet50D).parameters.values()
    assert of_create[0].name == "variant"
    assert list(of_ours) == of_create[1:]
    assert {"name", "input_tensor"} < set(
        inspect.signature(keras_resnet.backbone).parameters
    )


def test_net_is_rebuilt_under_another_policy(policy):
    policy("mixed_float16")
    model = small("seresnet50d", drop_path=0.1)
    wide = rebuild(model, "float32")
    assert keras.config.dtype_policy().name == "mixed_float16"
    assert wide.get_layer("stem").compute_dtype == "float32"
    assert wide.info == model.info.replace(dtype_policy="float32")
    assert_same_weights(wide, model)
    certain = rebuild(model, "float32", classifier_activation="softmax")
    odds = np.exp(call(wide, pixels()))
    assert_equal(call(certain, pixels()), odds / odds.sum(1, keepdims=True))


ON_JAX = """
import sys
import keras_resnet
tensorflow = "tensorflow" in sys.modules
import keras, numpy
model = keras_resnet.create(
    "resnet18d", width=16, classes=10, classifier_activation=None, weights=sys.argv[1]
)
logits = model.predict(numpy.load(sys.argv[2])["images"], verbose=0)
backend = keras.backend.backend()
numpy.savez(sys.argv[3], logits=logits, backend=backend, tensorflow=tensorflow)
"""


@pytest.fixture(scope="module")
def on_both(tmp_path_factory):
    """What one net answers to `pixels(75)` here, and all that a process on JAX says."""
    folder = tmp_path_factory.mktemp("jax")
    keras.utils.set_random_seed(0)
    model = unlike_fresh(
        keras_resnet.create(
            "resnet18d", width=16, classes=10, classifier_activation=None
        )
    )
    weights, images, answers = (
        folder / name for name in ("net.weights.h5", "images.npz", "answers.npz")
    )
    model.save_weights(weights)
    np.savez(images, images=pixels(75))
    environment = {
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",  # compiles four times faster
    }
    subprocess.run(
        [sys.executable, "-c", ON_JAX, weights, images, answers],
        env=os.environ | environment,
        check=True,
    )
    with np.load(answers) as theirs:
        return model.predict(pixels(75), verbose=0), dict(theirs)


def test_logits_are_the_same_on_jax(on_both):
    ours, theirs = on_both
    assert theirs["backend"] == "jax"
    assert_equal(theirs["logits"], ours)


def test_tensorflow_stays_out_where_the_backend_is_another(on_both):
    _, theirs = on_both
    assert not theirs["tensorflow"]


@pytest.mark.addons
def test_numbers_may_be_numpys(tmp_path):
    model = small(
        "seresnet50d",
        classes=np.int64(5),
        input_shape=(np.int32(32), np.int64(32), 3),
        width=np.int16(8),
        depths=(np.int64(1), 1),
        drop_path=np.float32(0.25),
        zero_gamma=np.bool_(True),
        std=(np.float32(0.5),) * 3,
        include_preprocessing=np.bool_(True),
    )
    json.dumps(dataclasses.asdict(model.info))
    model.save(tmp_path / "net.keras")
    again = keras.models.load_model(tmp_path / "net.keras")
    assert again.info == model.info
    assert open_model(tmp_path / "net.keras").info == model.info
    assert again.info.classes == 5
    assert json.dumps(complexity(model.info.config, np.int64(32), np.int64(5)))
