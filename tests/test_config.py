"""The table of nets is the published one, and a config refuses what is no net."""

import csv
import dataclasses
import json
import math
import re

import pytest
from checkpoints import GOLDENS, our_name

from keras_resnet.complexity import complexity
from keras_resnet.config import VARIANTS, ResNetConfig, list_models
from keras_resnet.plan import plan_blocks

# Trainable parameters at 1000 classes, as counted from the original implementations:
# depth -> (a and b, c and d, d without the classifier)
PARAMETERS = {
    18: (11_689_512, 11_708_744, 11_195_744),
    26: (15_995_176, 16_014_408, 13_965_408),
    34: (21_797_672, 21_816_904, 21_303_904),
    50: (25_557_032, 25_576_264, 23_527_264),
    101: (44_549_160, 44_568_392, 42_519_392),
    152: (60_192_808, 60_212_040, 58_163_040),
    200: (64_673_832, 64_693_064, 62_644_064),
}
OTHER_PARAMETERS = {
    "resnet18vd": 11_712_968,
    "resnet34vd": 21_821_128,
    "resnet200vd": 74_738_504,
    "seresnet50d": 28_107_256,
    "seresnet152d": 66_841_080,
    "ecaresnet50d": 25_576_350,
    "ecaresnet101d": 44_568_563,
    "resnext50d_32x4d": 25_048_136,
    "seresnext26d_32x4d": 16_809_512,
    "seresnext101d_32x8d": 93_588_280,
    "resnet50t": 25_573_728,
    "resnet50s": 25_680_808,
}
# multiply-adds at 224 in 1e9, depth -> (a, b, c and d)
GMACS = {
    18: (None, 1.814, 2.054),
    26: (2.111, 2.342, 2.582),
    34: (None, 3.664, 3.903),
    50: (3.858, 4.089, 4.329),
    101: (7.570, 7.801, 8.041),
    152: (11.282, 11.514, 11.753),
    200: (14.776, 15.007, 15.247),
}
BASIC = {18, 34}
LETTERED = [
    (depth, letter)
    for depth in PARAMETERS
    for letter in "abcd"
    if not (letter == "a" and depth in BASIC)
]
PUBLISHED = OTHER_PARAMETERS | {
    f"resnet{depth}{letter}": PARAMETERS[depth][letter in "cd"]
    for depth, letter in LETTERED
}


# net -> millions of parameters, in timm's results-imagenet.csv
with open(GOLDENS / "timm" / "parameters.csv") as _file:
    MILLIONS = {row["model"]: row["millions"] for row in csv.DictReader(_file)}


def test_every_published_net_is_in_the_table():
    pruned = {"ecaresnet50d_pruned", "ecaresnet101d_pruned", "test_resnet"}
    assert len(MILLIONS) == 64
    theirs = {our_name(name) for name in MILLIONS.keys() - pruned}
    assert set(VARIANTS) == set(PUBLISHED) | theirs


def test_parameter_counts_are_those_of_timms_table():
    ours = {
        name: f"{complexity(VARIANTS[our_name(name)])[0] / 1e6:.2f}"
        for name in MILLIONS
        if our_name(name) in VARIANTS
    }
    assert len(ours) == 61
    wrong = {
        name: (n, MILLIONS[name]) for name, n in ours.items() if n != MILLIONS[name]
    }
    assert wrong == {}


def test_parameter_counts_are_those_of_the_recorded_checkpoints():
    wrong = {}
    manifests = sorted(GOLDENS.glob("timm/*.manifest.json"))
    for path in manifests:
        theirs = sum(
            math.prod(shape)
            for name, shape, _ in json.loads(path.read_text())
            if not re.search(r"running_(mean|var)|num_batches_tracked", name)
        )
        ours, _ = complexity(VARIANTS[our_name(path.name.partition(".")[0])])
        if ours != theirs:
            wrong[path.name] = (ours, theirs)
    assert len(manifests) == 26
    assert wrong == {}


@pytest.mark.parametrize("depth", PARAMETERS)
def test_depth_counts_the_layers_with_kernels_on_the_longest_path(depth):
    config = VARIANTS[f"resnet{depth}b"]
    assert config.block == ("basic" if depth in BASIC else "bottleneck")
    convolutions = 2 if config.block == "basic" else 3
    assert depth == 1 + convolutions * sum(config.depths) + 1


def test_names_are_found_by_glob():
    assert list_models() == list(VARIANTS)
    assert sorted(list_models("*50d*")) == [
        "ecaresnet50d",
        "resnet50d",
        "resnetaa50d",
        "resnext50d_32x4d",
        "seresnet50d",
    ]
    assert list_models("RESNET50D") == ["resnet50d"]
    assert list_models("resnet??vd") == ["resnet18vd", "resnet34vd"]
    assert list_models("resnet[15]?s") == ["resnet50s"]
    assert list_models("resnet50") == []


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_count_is_the_published_one(name):
    assert complexity(VARIANTS[name])[0] == PUBLISHED[name]


@pytest.mark.parametrize("depth", PARAMETERS)
def test_parameter_count_without_classifier_is_the_published_one(depth):
    _, _, headless = PARAMETERS[depth]
    assert complexity(VARIANTS[f"resnet{depth}d"], classes=0)[0] == headless


def test_parameter_count_of_paddles_200_with_a_7x7_stem_is_the_published_one():
    config = VARIANTS["resnet200b"].replace(depths=(3, 12, 48, 3))
    assert complexity(config)[0] == 74_719_272


@pytest.mark.parametrize(("depth", "letter"), LETTERED)
def test_multiply_adds_are_the_published_ones(depth, letter):
    published = GMACS[depth]["abcd".index(letter) if letter < "c" else 2]
    _, multiply_adds = complexity(VARIANTS[f"resnet{depth}{letter}"])
    assert round(multiply_adds / 1e9, 3) == published


@pytest.mark.parametrize(
    ("size", "gmacs"),
    [
        (160, 2.210),
        (192, 3.181),
        (224, 4.329),
        (256, 5.653),
        (288, 7.154),
        (320, 8.832),
    ],
)
def test_multiply_adds_by_size_are_the_published_ones(size, gmacs):
    parameters, multiply_adds = complexity(VARIANTS["resnet50d"], size=size)
    assert round(multiply_adds / 1e9, 3) == gmacs
    assert parameters == PARAMETERS[50][1]


def test_classifier_costs_one_multiply_add_a_weight_and_a_bias_a_class():
    config = VARIANTS["resnet50d"]
    bare, full = complexity(config, classes=0), complexity(config, classes=10)
    assert (full[0] - bare[0], full[1] - bare[1]) == (2048 * 10 + 10, 2048 * 10)


@pytest.mark.parametrize(
    ("output_stride", "strides", "dilations"),
    [
        (32, [1, 2, 2, 2], [1, 1, 1, 1]),
        (16, [1, 2, 2, 1], [1, 1, 1, 2]),
        (8, [1, 2, 1, 1], [1, 1, 2, 4]),
    ],
)
def test_plan_dilates_where_it_no_longer_strides(output_stride, strides, dilations):
    blocks = plan_blocks(VARIANTS["resnet50d"].replace(output_stride=output_stride))
    first = [block for block in blocks if block.name.endswith("block0")]
    others = [block for block in blocks if block.name.endswith("block1")]
    assert [block.stride for block in first] == strides
    assert {block.stride for block in others} == {1}
    assert [block.dilation for block in others] == dilations
    # a stage's first block still sees the former stage's grid
    assert [block.first_dilation for block in first] == [1, *dilations[:-1]]


def test_replace_changes_a_copy():
    config = VARIANTS["resnet50d"]
    narrow = config.replace(width=16, attention="se")
    assert (narrow.width, narrow.attention, narrow.depths) == (16, "se", (3, 4, 6, 3))
    assert (config.width, config.attention) == (64, None)


def test_unknown_override_is_a_type_error_that_lists_the_right_ones():
    with pytest.raises(TypeError, match=r"unknown override stem_widht: .*stem_width"):
        VARIANTS["resnet50d"].replace(stem_widht=64)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"block": "wide"}, r"block='wide': must be one of 'basic', 'bottleneck'"),
        ({"stem": "shallow"}, r"stem='shallow': .*'conv7', 'deep', 'deep_tiered'"),
        (
            {"shortcut": "B"},
            r"shortcut='B': .*'projection', 'avg_pool', 'zero_pad', 'none'",
        ),
        ({"attention": "cbam"}, r"attention='cbam': .*None, 'se', 'eca'"),
        ({"output_stride": 4}, r"output_stride=4: .*8, 16, 32"),
        ({"width": 0}, r"width=0: .*positive integer"),
        ({"width": 64.0}, r"width=64\.0: .*positive integer"),
        ({"width": True}, r"width=True: .*positive integer"),
        ({"stem_width": -32}, r"stem_width=-32: .*positive integer"),
        ({"groups": 0}, r"groups=0: .*positive integer"),
        ({"group_width": 0}, r"group_width=0: .*positive integer"),
        ({"depths": ()}, r"depths=\(\): .*positive integers"),
        ({"depths": "3463"}, r"depths='3463': .*tuple or list"),
        ({"depths": (3, 0, 6, 3)}, r"depths=\(3, 0, 6, 3\): .*positive integers"),
        ({"depths": 50}, r"depths=50: .*tuple or list"),
        ({"drop_path": 1.0}, r"drop_path=1\.0: .*\[0, 1\)"),
        ({"drop_path": "0.1"}, r"drop_path='0\.1': .*\[0, 1\)"),
        ({"dropout": -0.1}, r"dropout=-0\.1: .*\[0, 1\)"),
        ({"mean": (123.7, 116.8, 103.9)}, r"mean=\(123\.7, .*divide"),
        ({"std": (58.4, 57.1, 57.4)}, r"std=\(58\.4, .*divide"),
        ({"std": (0.2, 0.2, 0)}, r"std=\(0\.2, 0\.2, 0\): .*\(0, 1\]"),
        ({"std": (0.2, 0.2, "0.2")}, r"std=\(0\.2, 0\.2, '0\.2'\): .*\(0, 1\]"),
        ({"mean": 0.5}, r"mean=0\.5: .*tuple or list"),
        ({"mean": (0.5,)}, r"mean=\(0\.5,\), std=.*equally long"),
        ({"block": "basic", "groups": 32}, r"block='basic', groups=32, .*only bottle"),
        ({"block": "basic", "group_width": 32}, r"block='basic', .*group_width=32"),
        ({"block": "basic", "reduce_first": 2}, r"block='basic', .*reduce_first=2"),
        ({"block": "basic", "stride_on_first": True}, r"stride_on_first=True"),
        ({"stem_width": 32}, r"stem='conv7', stem_width=32: only deep stems"),
        ({"width": 8, "groups": 32, "group_width": 4}, r"width=8, group_width=4: .*16"),
        ({"depths": (1,) * 17}, r"depths=\(1, .*up to 16 stages"),
        (
            {"depths": (2,), "anti_alias": "avg"},
            r"anti_alias='avg', .*no stage strides",
        ),
        ({"anti_alias": "max"}, r"anti_alias='max': .*None, 'avg', 'blur'"),
        ({"anti_alias": "blur", "stem_pool": "conv"}, r"anti_alias='blur', stem_pool="),
        (
            {"anti_alias": "avg", "stride_on_first": True},
            r"anti_alias='avg', stride_on_",
        ),
        ({"stem_pool": "avg"}, r"stem_pool='avg': .*'max', 'conv'"),
        ({"se_ratio": 0.25}, r"se_ratio=0\.25, attention=None: only attention='se'"),
        ({"attention": "se", "se_ratio": 0}, r"se_ratio=0: .*\(0, 1\]"),
        ({"reduce_first": 0}, r"reduce_first=0: .*positive integer"),
        (
            {"groups": 64, "group_width": 1, "reduce_first": 2},
            r"groups=64, reduce_first",
        ),
        ({"projection_size": 5}, r"projection_size=5: .*1, 3"),
        (
            {"projection_size": 3, "shortcut": "avg_pool"},
            r"projection_size=3, shortcut=",
        ),
        ({"normalization": "layer"}, r"normalization='layer': .*'batch', 'group'"),
        (
            {"normalization": "group"},
            r"fused_batch_norm=True: .*fused_batch_norm=False",
        ),
        (
            {"normalization": "group", "fused_batch_norm": False, "width": 48},
            r"normalization='group', width=48, .*multiple of 32, and one is 48",
        ),
        ({"stem": "deep_tiered", "width": 4}, r"width=4, stem_width=None: .* 4"),
        ({"stem": "deep_tiered", "stem_width": 3}, r"width=64, stem_width=3: .* 4"),
        ({"shortcut": "zero_pad", "project_always": True}, r"project_always"),
        ({"shortcut": "none"}, r"shortcut='none', zero_gamma=True"),
        (
            {"shortcut": "zero_pad", "first_stage_projection": True},
            r"first_stage_projection",
        ),
    ],
)
def test_what_is_no_net_is_a_value_error_that_names_argument_and_value(fields, message):
    with pytest.raises(ValueError, match=message):
        ResNetConfig(**{"depths": (3, 4, 6, 3)} | fields)


@pytest.mark.parametrize("name", VARIANTS)
def test_config_survives_json(name):
    text = json.dumps(dataclasses.asdict(VARIANTS[name]))
    again = ResNetConfig(**json.loads(text))
    assert again == VARIANTS[name]
    assert hash(again) == hash(VARIANTS[name])


def test_fields_of_no_effect_are_left_out_of_files_of_former_versions():
    fields = dataclasses.asdict(VARIANTS["resnet18b"])
    fields |= {"group_width": 32, "stem_width": 8}
    assert ResNetConfig.from_json(fields) == VARIANTS["resnet18b"]
    for name in ("resnet50s", "resnext50d_32x4d"):
        fields = dataclasses.asdict(VARIANTS[name])
        assert ResNetConfig.from_json(fields) == VARIANTS[name]


def test_config_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        VARIANTS["resnet50d"].width = 32
