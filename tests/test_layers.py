"""Each layer alone, as somebody would use it in a model of their own."""

import json

import numpy as np
import pytest

from keras_resnet import layers
from keras_resnet.backend import keras

CHANNELS = 8
# name -> (class, arguments, channels that come out, stride)
CASES = {
    "conv_norm": (layers.ConvNorm, {"filters": 6, "kernel_size": 3}, 6, 1),
    "conv_norm_stride_2": (
        layers.ConvNorm,
        {"filters": 6, "kernel_size": 3, "stride": 2, "relu": False},
        6,
        2,
    ),
    "conv_norm_dilated": (
        layers.ConvNorm,
        {"filters": 6, "kernel_size": 3, "dilation": 2},
        6,
        1,
    ),
    "batch_normalization": (layers.BatchNormalization, {}, CHANNELS, 1),
    "deep_stem": (layers.DeepStem, {"width": 4}, 8, 4),
    "tiered_stem": (layers.DeepStem, {"width": 8, "tiered": True}, 16, 4),
    "conv_stem": (layers.ConvStem, {"filters": 6}, 6, 4),
    "stem_pool_conv": (layers.DeepStem, {"width": 4, "pool": "conv"}, 8, 4),
    "stem_pool_avg": (layers.ConvStem, {"filters": 6, "pool": "avg"}, 6, 4),
    "stem_pool_blur": (layers.ConvStem, {"filters": 6, "pool": "blur"}, 6, 4),
    "blur_pool": (layers.BlurPool, {}, CHANNELS, 2),
    "avg_pool_shortcut_stride_1": (layers.AvgPoolShortcut, {"filters": 12}, 12, 1),
    "avg_pool_shortcut": (layers.AvgPoolShortcut, {"filters": 12, "stride": 2}, 12, 2),
    "projection_shortcut": (
        layers.ProjectionShortcut,
        {"filters": 12, "stride": 2},
        12,
        2,
    ),
    "projection_shortcut_3x3": (
        layers.ProjectionShortcut,
        {"filters": 12, "stride": 2, "kernel_size": 3},
        12,
        2,
    ),
    "zero_pad_shortcut": (layers.ZeroPadShortcut, {"filters": 12, "stride": 2}, 12, 2),
    "squeeze_excite": (layers.SqueezeExcite, {"ratio": 0.25}, CHANNELS, 1),
    "efficient_channel_attention": (
        layers.EfficientChannelAttention,
        {},
        CHANNELS,
        1,
    ),
    "basic_block": (layers.BasicBlock, {"filters": 8}, 8, 1),
    "basic_block_d": (
        layers.BasicBlock,
        {"filters": 6, "stride": 2, "attention": "eca", "drop_path": 0.2},
        6,
        2,
    ),
    "basic_block_a": (
        layers.BasicBlock,
        {"filters": 16, "stride": 2, "shortcut": "zero_pad", "zero_gamma": False},
        16,
        2,
    ),
    "basic_block_blur": (
        layers.BasicBlock,
        {"filters": 6, "anti_alias": "blur", "dilation": 2, "first_dilation": 1},
        6,
        1,
    ),
    "bottleneck_block_avg": (
        layers.BottleneckBlock,
        {"filters": 4, "stride": 2, "anti_alias": "avg"},
        16,
        2,
    ),
    "bottleneck_block_senet": (
        layers.BottleneckBlock,
        {
            "filters": 4,
            "stride": 2,
            "shortcut": "projection",
            "projection_size": 3,
            "reduce_first": 2,
            "attention": "se",
            "se_ratio": 0.25,
        },
        16,
        2,
    ),
    "bottleneck_block_group_norm": (
        layers.BottleneckBlock,
        {
            "filters": 32,
            "stride": 2,
            "normalization": "group",
            "fused_batch_norm": False,
        },
        128,
        2,
    ),
    "bottleneck_block": (
        layers.BottleneckBlock,
        {"filters": 2, "project": True, "fused_batch_norm": False},
        8,
        1,
    ),
    "bottleneck_block_d": (
        layers.BottleneckBlock,
        {"filters": 4, "stride": 2, "attention": "se", "drop_path": 0.2},
        16,
        2,
    ),
    "bottleneck_block_a": (
        layers.BottleneckBlock,
        {
            "filters": 4,
            "stride": 2,
            "shortcut": "projection",
            "stride_on_first": True,
        },
        16,
        2,
    ),
    "bottleneck_block_dilated": (
        layers.BottleneckBlock,
        {"filters": 4, "dilation": 2, "first_dilation": 1},
        16,
        1,
    ),
    "bottleneck_block_grouped": (
        layers.BottleneckBlock,
        {"filters": 16, "stride": 2, "groups": 4, "group_width": 8},
        64,
        2,
    ),
}
POLICIES = (
    "float32",
    "mixed_float16",
    "mixed_bfloat16",
    "float16",
    "bfloat16",
    "float64",
)
EPSILON = 1e-5  # of every normalization


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


def make(case, **kwargs):
    cls, arguments, _, _ = CASES[case]
    return cls(**arguments, **kwargs)


def built(case, **kwargs):
    """A layer that has seen no input yet, with weights unlike a fresh layer's."""
    layer = make(case, **kwargs)
    layer.build((None, None, None, CHANNELS))
    return unlike_fresh(layer)


def unlike_fresh(layer):
    generator = np.random.default_rng(1)
    layer.set_weights(
        [
            generator.uniform(0.5, 1.5, value.shape).astype(value.dtype)
            for value in layer.get_weights()
        ]
    )
    return layer


def pictures(height=8, width=6, channels=CHANNELS, batch=2):
    shape = (batch, height, width, channels)
    return np.random.default_rng(2).normal(size=shape).astype("float32")


def run(layer, inputs, **kwargs):
    return keras.ops.convert_to_numpy(layer(inputs, **kwargs))


def neutralise(norm):
    """Makes a normalization the identity at inference."""
    norm.moving_variance.assign(np.full(norm.moving_variance.shape, 1 - EPSILON))


def convolve(x, kernel, stride, margin):
    """Cross-correlation of [N, H, W, C] with [k, k, C, F], zeros on every side."""
    x = np.pad(x, [(0, 0), (margin, margin), (margin, margin), (0, 0)])
    size = kernel.shape[0]
    height = (x.shape[1] - size) // stride + 1
    width = (x.shape[2] - size) // stride + 1
    return sum(
        x[:, i : i + stride * height : stride, j : j + stride * width : stride]
        @ kernel[i, j]
        for i in range(size)
        for j in range(size)
    )


def average_pool(x):
    """2x2 at stride 2; at an odd edge the average of the values that are there."""
    rows, columns = (range(0, side, 2) for side in x.shape[1:3])
    return np.stack(
        [
            np.stack([x[:, i : i + 2, j : j + 2].mean((1, 2)) for j in columns], 1)
            for i in rows
        ],
        1,
    )


def test_every_public_layer_is_tested_here():
    assert {cls.__name__ for cls, *_ in CASES.values()} == set(layers.__all__)


@pytest.mark.parametrize("size", [(8, 10), (9, 7)])
@pytest.mark.parametrize("case", CASES)
def test_sides_are_divided_by_the_stride_and_rounded_up(case, size):
    *_, channels, stride = CASES[case]
    expected = (2, -(-size[0] // stride), -(-size[1] // stride), channels)
    layer = make(case)
    assert layer(pictures(*size)).shape == expected
    assert layer.compute_output_shape((2, *size, CHANNELS)) == expected


@pytest.mark.parametrize("case", CASES)
def test_unknown_sides_stay_unknown(case):
    *_, channels, _ = CASES[case]
    outputs = make(case)(keras.Input((None, None, CHANNELS)))
    assert outputs.shape == (None, None, None, channels)


@pytest.mark.parametrize("case", CASES)
def test_layer_is_rebuilt_from_its_config(case):
    layer = built(case, name="mine", dtype="mixed_bfloat16", trainable=False)
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    again.build((None, None, None, CHANNELS))
    again.set_weights(layer.get_weights())
    np.testing.assert_array_equal(
        keras.ops.cast(again(pictures()), "float32"),
        keras.ops.cast(layer(pictures()), "float32"),
    )


@pytest.mark.parametrize("case", CASES)
def test_layer_is_registered_with_keras(case):
    layer = make(case)
    serialized = keras.saving.serialize_keras_object(layer)
    assert serialized["registered_name"] == f"keras_resnet>{type(layer).__name__}"
    again = keras.saving.deserialize_keras_object(serialized)
    assert again.get_config() == layer.get_config()


@pytest.mark.parametrize("case", CASES)
def test_config_names_every_argument(case):
    _, arguments, _, _ = CASES[case]
    assert arguments.items() <= make(case).get_config().items()


@pytest.mark.parametrize("case", CASES)
def test_weights_can_be_set_before_the_first_call(case):
    called = make(case)
    called(pictures())
    unlike_fresh(called)
    uncalled = built(case)
    assert [v.path.partition("/")[2] for v in uncalled.variables] == [
        v.path.partition("/")[2] for v in called.variables
    ]
    np.testing.assert_array_equal(uncalled(pictures()), called(pictures()))
    assert len(uncalled.variables) == len(called.variables)  # the call added none


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "case", {cls: case for case, (cls, *_) in CASES.items()}.values()
)
def test_output_is_finite_in_the_policys_compute_dtype(case, policy):
    layer = make(case, dtype=policy)
    for training in (False, True):
        outputs = layer(pictures(9, 7), training=training)
        dtype = keras.backend.standardize_dtype(outputs.dtype)
        assert dtype == keras.DTypePolicy(policy).compute_dtype
        assert np.isfinite(keras.ops.cast(outputs, "float64")).all()
    floats = [v for v in layer.variables if not v.path.endswith("generator_state")]
    assert {v.dtype for v in floats} <= {keras.DTypePolicy(policy).variable_dtype}


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("kernel_size", [1, 3, 7])
def test_strided_convolution_pads_alike_on_both_sides(kernel_size, size):
    layer = layers.ConvNorm(6, kernel_size, stride=2, relu=False)
    layer.build((None, None, None, CHANNELS))
    neutralise(layer.norm)
    x = pictures(size, size + 1)
    expected = convolve(x, layer.conv.kernel.numpy(), 2, (kernel_size - 1) // 2)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_convolution_is_normalized_then_rectified():
    layer = built("conv_norm")
    gamma, beta, mean, variance = (v.numpy() for v in layer.norm.weights)
    x = pictures()
    y = convolve(x, layer.conv.kernel.numpy(), 1, 1)
    expected = gamma * (y - mean) / np.sqrt(variance + EPSILON) + beta
    assert (expected < 0).any()
    expected = np.maximum(expected, 0)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_dilated_convolution_reads_every_other_position():
    layer = layers.ConvNorm(6, 3, dilation=2, relu=False)
    layer.build((None, None, None, CHANNELS))
    neutralise(layer.norm)
    x = pictures(8, 8)
    holes = np.zeros((5, 5, CHANNELS, 6), "float32")
    holes[::2, ::2] = layer.conv.kernel.numpy()
    expected = convolve(x, holes, 1, 2)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_stem_pools_the_largest_of_each_3x3_around_every_other_position():
    stem = built("conv_stem")
    x = pictures(11, 8)
    y = np.pad(stem.conv1(x), [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(y, (3, 3), axis=(1, 2))
    np.testing.assert_array_equal(stem(x), windows[:, ::2, ::2].max((-1, -2)))


@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
@pytest.mark.parametrize("stride", [1, 2])
def test_blur_is_the_binomial_filter_over_reflected_borders(stride, size):
    x = pictures(*size)
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="reflect")
    binomial = np.outer([1, 2, 1], [1, 2, 1]) / 16
    kernel = binomial[..., None, None] * np.eye(CHANNELS)
    expected = convolve(padded, kernel, stride, 0)
    ours = run(layers.BlurPool(stride), x)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("cls", [layers.BasicBlock, layers.BottleneckBlock])
def test_anti_aliased_block_pools_where_it_would_stride(cls, size):
    x = pictures(size, size)
    block = cls(4, 2, anti_alias="avg")
    block.build(x.shape)
    unlike_fresh(block)
    convolutions = [block.conv1, block.conv2]
    if cls is layers.BottleneckBlock:
        convolutions.append(block.conv3)
    *first, last = convolutions
    y = x
    for convolution in first:
        y = run(convolution, y)
    assert y.shape[1] == size  # the 3x3 sees every position
    expected = np.maximum(run(last, average_pool(y)) + run(block.shortcut, x), 0)
    np.testing.assert_allclose(run(block, x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["avg", "blur"])
def test_anti_aliasing_where_nothing_strides_is_refused(kind):
    with pytest.raises(ValueError, match=f"anti_alias='{kind}', stride=1: nothing"):
        layers.BasicBlock(8, anti_alias=kind)
    with pytest.raises(ValueError, match="stride_on_first=True"):
        layers.BottleneckBlock(8, 2, anti_alias=kind, stride_on_first=True)


def test_arguments_without_effect_are_refused():
    with pytest.raises(ValueError, match=r"se_ratio=0\.25, attention='eca'"):
        layers.BasicBlock(8, attention="eca", se_ratio=0.25)
    with pytest.raises(ValueError, match=r"projection_size=3, shortcut='zero_pad'"):
        layers.BottleneckBlock(8, shortcut="zero_pad", projection_size=3)
    with pytest.raises(ValueError, match=r"shortcut='none', zero_gamma=True"):
        layers.BasicBlock(8, shortcut="none")


def test_group_normalization_with_a_batch_normalization_is_refused():
    with pytest.raises(
        ValueError, match=r"fused_batch_norm=True: .*give fused_batch_n"
    ):
        layers.ConvNorm(32, 3, normalization="group")


def test_stem_of_another_pool_is_refused():
    with pytest.raises(ValueError, match="pool='min': must be 'max', 'conv', 'avg'"):
        layers.DeepStem(pool="min")


@pytest.mark.parametrize(
    ("layer", "filters"),
    [
        (layers.DeepStem(), [32, 32, 64]),
        (layers.DeepStem(width=64), [64, 64, 128]),
        (layers.DeepStem(tiered=True), [24, 32, 64]),
    ],
)
def test_deep_stem_has_the_published_widths(layer, filters):
    layer.build((None, 224, 224, 3))
    kernels = [v.shape for v in layer.trainable_weights if v.name == "kernel"]
    assert kernels == [
        (3, 3, inputs, outputs) for inputs, outputs in zip([3, *filters], filters)
    ]


@pytest.mark.parametrize("size", [(8, 8), (9, 9), (7, 10), (1, 1)])
def test_average_pool_divides_by_the_values_that_exist(size):
    layer = layers.AvgPoolShortcut(CHANNELS, stride=2)
    layer.build((None, None, None, CHANNELS))
    neutralise(layer.projection.norm)
    layer.projection.conv.kernel.assign(np.eye(CHANNELS)[None, None])
    x = pictures(*size)
    np.testing.assert_allclose(layer(x), average_pool(x), rtol=1e-5, atol=1e-6)


def test_projection_reads_one_position_in_four():
    layer = built("projection_shortcut")
    x = pictures(9, 8)
    expected = run(layer, x)
    x[:, 1::2] = x[:, :, 1::2] = np.nan
    np.testing.assert_array_equal(layer(x), expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_zero_padded_shortcut_is_the_input_and_zeros(stride):
    layer = layers.ZeroPadShortcut(12, stride=stride)
    x = pictures(9, 8)
    kept = x[:, ::stride, ::stride]
    np.testing.assert_array_equal(
        layer(x), np.concatenate([kept, np.zeros_like(kept[..., :4])], axis=-1)
    )
    assert layer.variables == []


@pytest.mark.parametrize(
    ("channels", "ratio", "inner"),
    [
        (256, 1 / 16, 16),
        (512, 1 / 16, 32),
        (1024, 1 / 16, 64),
        (2048, 1 / 16, 128),
        (64, 1 / 16, 8),
        (200, 1 / 16, 16),
        (256, 0.25, 64),
    ],
)
def test_squeeze_has_the_published_width(channels, ratio, inner):
    layer = layers.SqueezeExcite(ratio=ratio)
    layer.build((None, None, None, channels))
    assert [v.shape for v in layer.weights] == [
        (1, 1, channels, inner),
        (inner,),
        (1, 1, inner, channels),
        (channels,),
    ]


@pytest.mark.parametrize(
    ("channels", "size"),
    [(1, 3), (4, 3), (8, 3), (64, 3), (256, 5), (512, 5), (1024, 5), (2048, 7)],
)
def test_channel_convolution_has_the_published_size(channels, size):
    layer = layers.EfficientChannelAttention()
    layer.build((None, None, None, channels))
    assert [v.shape for v in layer.weights] == [(size, 1, 1)]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_squeeze_and_excitation_scales_by_a_gate_of_all_means():
    layer = layers.SqueezeExcite()
    x = pictures()
    layer(x)
    layer.fc1.bias.assign(keras.random.normal(layer.fc1.bias.shape))
    layer.fc2.bias.assign(keras.random.normal(layer.fc2.bias.shape))
    kernel1, bias1, kernel2, bias2 = (v.numpy() for v in layer.weights)
    inner = np.maximum(x.mean((1, 2)) @ kernel1[0, 0] + bias1, 0)
    gate = sigmoid(inner @ kernel2[0, 0] + bias2)
    np.testing.assert_allclose(layer(x), x * gate[:, None, None], rtol=1e-5, atol=1e-6)


def test_efficient_channel_attention_scales_by_a_gate_of_neighbouring_means():
    layer = layers.EfficientChannelAttention()
    x = pictures(channels=16)
    layer(x)
    kernel = layer.conv.kernel.numpy()[:, 0, 0]
    gate = sigmoid(
        np.stack([np.correlate(row, kernel, "same") for row in x.mean((1, 2))])
    )
    np.testing.assert_allclose(layer(x), x * gate[:, None, None], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("attention", [None, "se", "eca"])
@pytest.mark.parametrize(
    ("cls", "filters", "stride"),
    [
        (layers.BasicBlock, 8, 1),
        (layers.BasicBlock, 8, 2),
        (layers.BottleneckBlock, 2, 1),
        (layers.BottleneckBlock, 2, 2),
    ],
)
def test_fresh_block_is_its_shortcut(cls, filters, stride, attention):
    x = pictures(9, 9)
    block = cls(filters, stride, attention=attention)
    outputs = run(block, x, training=True)
    expected = np.maximum(run(block.shortcut, x, training=True), 0)
    np.testing.assert_array_equal(outputs, expected)
    other = cls(filters, stride, attention=attention, zero_gamma=False)
    outputs = run(other, x, training=True)
    shortcut = np.maximum(run(other.shortcut, x, training=True), 0)
    assert np.abs(outputs - shortcut).max() > 0.1


def test_stochastic_depth_drops_whole_samples_in_training_only():
    block = layers.BasicBlock(CHANNELS, drop_path=0.25, zero_gamma=False)
    x = np.repeat(pictures(batch=1), 400, axis=0)
    block.build(x.shape)
    block.trainable = False  # one normalization in both modes, the moving one
    branch = run(block.conv2, block.conv1(x))
    np.testing.assert_allclose(
        block(x, training=False), np.maximum(x + branch, 0), rtol=1e-5, atol=1e-5
    )
    outputs = run(block, x, training=True)
    dropped = (np.abs(outputs - np.maximum(x, 0)) < 1e-5).all((1, 2, 3))
    kept = np.maximum(x + branch / 0.75, 0)  # the expected branch stays as it was
    np.testing.assert_allclose(outputs[~dropped], kept[~dropped], rtol=1e-5, atol=1e-5)
    assert 65 <= dropped.sum() <= 135  # four standard deviations around 100


@pytest.mark.parametrize(
    ("arguments", "kind", "parameters"),
    [
        ({"shortcut": "zero_pad", "stride": 2, "filters": 16}, "ZeroPadShortcut", 0),
        (
            {"shortcut": "projection", "stride": 2, "filters": 16},
            "ProjectionShortcut",
            8 * 16 + 2 * 16,
        ),
        (
            {"shortcut": "avg_pool", "stride": 2, "filters": 16},
            "AvgPoolShortcut",
            8 * 16 + 2 * 16,
        ),
        (
            {"shortcut": "none", "zero_gamma": False, "stride": 2, "filters": 16},
            "NoneType",
            0,
        ),
        ({"shortcut": "zero_pad", "filters": 8}, "Identity", 0),
        ({"shortcut": "projection", "filters": 8}, "Identity", 0),
        ({"shortcut": "avg_pool", "filters": 8}, "Identity", 0),
        (
            {"shortcut": "projection", "project": True, "filters": 8},
            "ProjectionShortcut",
            8 * 8 + 2 * 8,
        ),
        (
            {"shortcut": "avg_pool", "project": True, "filters": 8},
            "AvgPoolShortcut",
            8 * 8 + 2 * 8,
        ),
    ],
)
def test_shortcut_is_the_option_that_was_asked_for(arguments, kind, parameters):
    block = layers.BasicBlock(**arguments)
    block.build((None, None, None, 8))
    assert type(block.shortcut).__name__ == kind
    variables = block.shortcut.trainable_variables if block.shortcut else []
    assert sum(np.prod(v.shape) for v in variables) == parameters


@pytest.mark.parametrize(
    ("stride_on_first", "strides"), [(True, (2, 1, 1)), (False, (1, 2, 1))]
)
def test_bottleneck_strides_where_its_letter_says(stride_on_first, strides):
    block = layers.BottleneckBlock(4, 2, stride_on_first=stride_on_first)
    convolutions = (block.conv1, block.conv2, block.conv3)
    assert tuple(part.conv.strides[0] for part in convolutions) == strides


@pytest.mark.parametrize(
    ("filters", "width"), [(64, 128), (128, 256), (256, 512), (512, 1024)]
)
def test_grouped_bottleneck_has_the_published_width(filters, width):
    block = layers.BottleneckBlock(filters, groups=32, group_width=4)
    block.build((None, None, None, 4 * filters))
    assert block.conv2.conv.kernel.shape == (3, 3, width // 32, width)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_layers_work_in_anybodys_sequential_and_are_saved_with_it(policy, tmp_path):
    model = keras.Sequential(
        [
            keras.Input((17, 17, 3)),
            layers.DeepStem(4, dtype=policy),
            layers.BottleneckBlock(4, attention="se", drop_path=0.1, dtype=policy),
            layers.BasicBlock(8, stride=2, attention="eca", dtype=policy),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2),
        ]
    )
    for layer in model.layers[:3]:
        unlike_fresh(layer)
    model.save(tmp_path / "theirs.keras")
    again = keras.models.load_model(tmp_path / "theirs.keras")
    x = pictures(17, 17, 3)
    np.testing.assert_array_equal(
        again.predict(x, verbose=0), model.predict(x, verbose=0)
    )


@pytest.mark.parametrize("cls", [layers.BasicBlock, layers.BottleneckBlock])
@pytest.mark.parametrize(
    ("argument", "allowed"),
    [
        ("shortcut", "'projection', 'avg_pool', 'zero_pad', 'none'"),
        ("attention", "'se', 'eca'"),
        ("anti_alias", "None, 'avg', 'blur'"),
    ],
)
def test_unknown_choice_is_an_error_that_lists_the_right_ones(cls, argument, allowed):
    with pytest.raises(ValueError, match=f"{argument}='best': .*{allowed}"):
        cls(8, **{argument: "best"})


def test_zero_padded_shortcut_cannot_drop_channels():
    with pytest.raises(ValueError, match=r"filters=4: .* 8 channels"):
        layers.ZeroPadShortcut(4).build((None, 8, 8, 8))
    with pytest.raises(ValueError, match=r"filters=4: .* 8 channels"):
        layers.BasicBlock(4, shortcut="zero_pad").build((None, 8, 8, 8))


@pytest.mark.parametrize(
    "argument",
    [
        {"groups": 32},
        {"group_width": 32},
        {"reduce_first": 2},
        {"stride_on_first": True},
    ],
)
def test_basic_block_has_neither_groups_nor_a_first_1x1(argument):
    (name, value), *_ = argument.items()
    with pytest.raises(ValueError, match=f"{name}={value}.*BottleneckBlock"):
        layers.BasicBlock(8, **argument)


def test_basic_block_of_a_former_file_opens():
    config = layers.BasicBlock(8).get_config() | {"group_width": 32}
    assert layers.BasicBlock.from_config(config).get_config()["group_width"] == 64


@pytest.mark.addons
@pytest.mark.parametrize("case", CASES)
def test_what_is_changed_within_is_in_the_config(case):
    layer = built(case)
    assert "parts" not in layer.get_config()
    within = [
        part
        for part in layer._flatten_layers(include_self=False)
        if len(list(part._flatten_layers())) == 1 and part.weights
    ]
    for number, part in enumerate(within):
        part.trainable = number % 2 == 0
    config = json.loads(json.dumps(layer.get_config()))
    again = type(layer).from_config(config)
    assert json.loads(json.dumps(again.get_config())) == config
    again.build((None, None, None, CHANNELS))
    assert len(again.trainable_weights) == len(layer.trainable_weights)
    assert json.loads(json.dumps(again.get_config())) == config
    layer.trainable = False
    again = type(layer).from_config(layer.get_config())
    again.build((None, None, None, CHANNELS))
    assert "parts" not in layer.get_config()
    assert not any(part.trainable for part in again._flatten_layers())
    again.trainable = True
    assert len(again.trainable_weights) == len(built(case).trainable_weights)


@pytest.mark.parametrize("case", CASES)
def test_arguments_may_be_numpys(case):
    cls, arguments, *_ = CASES[case]
    numpys = {
        name: np.asarray(value)[()] if isinstance(value, int | float) else value
        for name, value in arguments.items()
    }
    layer = cls(**numpys)
    layer.build((None, None, None, CHANNELS))
    usual = built(case)
    ours, theirs = (json.dumps(x.get_config() | {"name": ""}) for x in (layer, usual))
    assert ours == theirs
    for part in layer._flatten_layers():
        if not isinstance(part, keras.layers.Identity):
            json.dumps(part.get_config())


@pytest.mark.parametrize("ratio", [0, -1, 1.5])
def test_squeeze_ratio_is_a_fraction(ratio):
    with pytest.raises(ValueError, match=rf"ratio={ratio}: must be in \(0, 1\]"):
        layers.SqueezeExcite(ratio=ratio)


@pytest.mark.parametrize("groups", [1, 4])
def test_convolutions_start_as_he_over_the_fan_out(groups):
    layer = layers.ConvNorm(256, 3, groups=groups)
    layer.build((None, None, None, 256))
    kernel = layer.conv.kernel.numpy()
    expected = np.sqrt(2 / (3 * 3 * 256))
    error = 1 / np.sqrt(2 * kernel.size)  # of a sample's standard deviation
    assert abs(kernel.std() / expected - 1) < 4 * error
    assert abs(kernel.mean()) < 4 * expected / np.sqrt(kernel.size)
    assert np.abs(kernel).max() > 4 * expected  # a whole normal, not a truncated one
