"""The released checkpoints are the published ones, with the published figures."""

import csv
import re

import pytest
from checkpoints import GOLDENS, our_name

from keras_resnet import VARIANTS, WeightsError
from keras_resnet.weights.released import find, released
from keras_resnet.weights.tags import explain

ROWS = [row for tags in released().values() for row in tags.values()]

# variant, tag: train size, crop, top-1, top-5; test size, crop, top-1, top-5, as in
# timm's results-imagenet.csv
BOTH_SIZES = {
    ("resnet18d", "ra2_in1k"): (224, 0.875, 72.296, 90.682, 288, 0.95, 73.790, 91.834),
    ("resnet26d", "bt_in1k"): (224, 0.875, 76.698, 93.156, 288, 0.95, 77.422, 93.634),
    ("resnet50d", "ra2_in1k"): (224, 0.875, 80.546, 95.160, 288, 0.95, 81.354, 95.742),
    ("resnet50d", "a1_in1k"): (224, 0.95, 80.730, 94.678, 288, 1.0, 81.466, 95.218),
    ("resnet50d", "a3_in1k"): (160, 0.95, 77.222, 93.256, 224, 0.95, 78.742, 94.236),
    ("resnet50d", "ra4_e3600_r224_in1k"): (
        *(224, 0.95, 80.956, 95.380),
        *(288, 1.0, 81.840, 95.926),
    ),
    ("resnet50b", "a1h_in1k"): (176, 0.9, 79.264, 94.498, 224, 1.0, 80.654, 95.312),
    ("resnet50b", "tv2_in1k"): (176, 0.875, 79.434, 94.640, 224, 0.965, 80.846, 95.430),
    ("resnet101d", "ra2_in1k"): (256, 0.95, 82.254, 96.070, 320, 1.0, 83.020, 96.456),
    ("resnet152d", "ra2_in1k"): (256, 0.95, 83.160, 96.370, 320, 1.0, 83.684, 96.750),
    ("seresnet152d", "ra2_in1k"): (256, 0.95, 83.702, 96.794, 320, 1.0, 84.344, 97.044),
    ("seresnextaa201d_32x8d", "sw_in12k_ft_in1k_384"): (
        *(384, 1.0, None, None),
        *(384, 1.0, 87.304, 98.334),
    ),
    ("resnetrs420", "tf_in1k"): (320, 1.0, 84.240, 96.862, 416, 1.0, 85.010, 97.110),
    ("resnet10t", "c3_in1k"): (176, 0.875, 66.724, 86.976, 224, 0.95, 68.354, 88.034),
    ("ecaresnet101d", "miil_in1k"): (
        *(224, 0.875, 82.180, 96.062),
        *(288, 0.95, 83.006, 96.524),
    ),
}
# variant, tag: top-1, top-5 of 224 pixels of 256; Paddle's from its model table
ONE_SIZE = {
    ("resnet50d", "gluon_in1k"): (79.080, 94.458),
    ("resnet152c", "gluon_in1k"): (79.904, 94.854),
    ("resnet50s", "gluon_in1k"): (78.710, 94.248),
    ("resnet50b", "tv_in1k"): (76.156, 92.866),
    ("resnet18vd", "paddle_in1k"): (72.26, 90.80),
    ("resnet50d", "paddle_in1k"): (79.12, 94.44),
    ("resnet50d", "paddle_ssld_in1k"): (83.00, 96.40),
    ("resnet101d", "paddle_ssld_in1k"): (83.73, 96.69),
    ("resnet200vd", "paddle_in1k"): (80.93, 95.33),
}


def _id(row):
    return f"{row.variant}.{row.tag}"


def test_every_released_checkpoint_of_our_variants_is_there():
    origins = [row.origin.startswith("hf://timm/") for row in ROWS]
    assert (sum(origins), len(origins) - sum(origins)) == (147, 9)
    assert len({row.origin for row in ROWS}) == len(ROWS)
    assert list(released()) == [name for name in VARIANTS if name in released()]


@pytest.mark.parametrize("row", ROWS, ids=_id)
def test_every_row_is_of_a_variant_and_in_range(row):
    config = VARIANTS[row.variant]
    assert config.replace(mean=row.mean, std=row.std).mean == row.mean  # it validates
    assert len(row.mean) == len(row.std) == 3
    assert 160 <= row.train_size <= row.test_size <= 416
    assert 0.8 <= row.train_crop_pct <= 1
    assert 0.8 <= row.crop_pct <= 1
    assert row.interpolation in ("bicubic", "bilinear")
    if row.top1 is None:
        assert row.top5 is row.train_top1 is row.train_top5 is None
        assert row.classes in (0, 11821)
        return
    assert row.classes == 1000
    assert 60 < row.top1 < row.top5 < 100
    assert (row.train_top1 is None) == (row.train_top5 is None)
    if row.train_top1 is not None:
        assert row.train_size < row.test_size
        assert 60 < row.train_top1 < row.top1
        assert row.train_top1 < row.train_top5 < row.top5


def test_every_protocol_is_that_of_timms_configuration():
    def theirs(row):
        numbers = (row["train_size"], row["test_size"], row["classes"])
        shares = (row["crop_pct"], row["test_crop_pct"])
        mean, std = (tuple(map(float, row[name].split())) for name in ("mean", "std"))
        licence = row["licence"] or "unknown"
        variant = our_name(row["model"])
        return (
            (variant, row["tag"], f"hf://{row['hf_hub_id']}", row["interpolation"]),
            (*map(int, numbers), *map(float, shares), mean, std, licence),
        )

    def ours(row):
        numbers = (row.train_size, row.test_size, row.classes)
        shares = (row.train_crop_pct, row.crop_pct)
        return (
            (row.variant, row.tag, row.origin, row.interpolation),
            (*numbers, *shares, row.mean, row.std, row.licence),
        )

    with open(GOLDENS / "timm" / "cfgs.csv") as file:
        configured = dict(
            theirs(row)
            for row in csv.DictReader(file)
            if not row["model"].endswith("_pruned") and row["model"] != "test_resnet"
        )
    released = dict(ours(row) for row in ROWS if "hf://timm/" in row.origin)
    assert len(configured) == 147
    differing = {
        name: (released.get(name), configured.get(name))
        for name in released.keys() | configured.keys()
        if released.get(name) != configured.get(name)
    }
    assert differing == {}


def test_the_origin_of_paddles_is_the_same_net():
    paddle = [row for row in ROWS if "hf://timm/" not in row.origin]
    for row in paddle:
        depth, ssld = re.fullmatch(
            r"https://[\w./-]+/legendary_models/"
            r"ResNet(\d+)_vd(_ssld)?_pretrained\.pdparams",
            row.origin,
        ).groups()
        own_layout = depth in ("18", "34", "200")
        assert row.variant == f"resnet{depth}{'vd' if own_layout else 'd'}"
        assert row.tag == f"paddle{ssld or ''}_in1k"
        assert row.licence == "apache-2.0"


@pytest.mark.parametrize("name", BOTH_SIZES, ids=".".join)
def test_figures_at_both_sizes_are_the_published_ones(name):
    row = find(*name)
    assert row.interpolation == ("bilinear" if "tv" in row.tag else "bicubic")
    trained = (row.train_size, row.train_crop_pct, row.train_top1, row.train_top5)
    tested = (row.test_size, row.crop_pct, row.top1, row.top5)
    assert (*trained, *tested) == BOTH_SIZES[name]


@pytest.mark.parametrize("name", ONE_SIZE, ids=".".join)
def test_figures_of_one_size_are_the_published_ones(name):
    row = find(*name)
    assert row.interpolation == ("bicubic" if "gluon" in row.tag else "bilinear")
    assert (row.train_size, row.test_size) == (224, 224)
    assert (row.crop_pct, row.train_crop_pct) == (0.875, 0.875)
    assert (row.top1, row.top5) == ONE_SIZE[name]
    assert (row.train_top1, row.train_top5) == (None, None)


def test_what_is_not_licensed_for_commerce_says_so():
    refused = {(row.variant, row.tag) for row in ROWS if not row.commercial}
    facebook = {(row.variant, row.tag) for row in ROWS if row.tag.startswith("fb_")}
    assert refused == facebook | {("resnet50b", "bamboo")}


@pytest.mark.parametrize(
    ("variant", "tag"),
    [
        ("resnet50d", "ra4_e3600_r224_in1k"),  # paddle_ssld is better: not on the hub
        ("resnet18b", "a1_in1k"),  # fb_swsl is better: not for commercial use
        ("resnet152d", "ra2_in1k"),
        ("resnet50s", "gluon_in1k"),  # the only one
        ("resnetaa50d", "sw_in12k_ft_in1k"),  # the others have 11,821 classes
        ("resnext101_32x8d", "tv2_in1k"),
        ("resnet34vd", "paddle_ssld_in1k"),  # none is on the hub
    ],
)
def test_imagenet_is_the_best_free_one_on_the_hub(variant, tag):
    assert find(variant, "imagenet") is find(variant, tag)


def test_every_tag_tells_the_recipe_and_the_data():
    told = {row.tag: explain(row.tag) for row in ROWS}
    assert [tag for tag, lines in told.items() if len(lines) < 2] == ["bamboo"]
    assert told["ra4_e3600_r224_in1k"][1:] == [
        "3,600 epochs.",
        "Trained on ImageNet-1k.",
    ]
    assert told["sw_in12k_ft_in1k_384"] == told["sw_in12k_ft_in1k"]
    assert "arXiv 1905.00546" in told["fb_swsl_ig1b_ft_in1k"][1]


def test_an_unknown_tag_is_told_those_that_there_are():
    with pytest.raises(
        WeightsError,
        match=r"weights='ra3': resnet18d has imagenet, ra4_e3600_r224_in1k, ra2_in1k$",
    ):
        find("resnet18d", "ra3")


@pytest.mark.parametrize("tag", ["imagenet", "a1_in1k"])
def test_a_variant_without_weights_says_so(tag):
    with pytest.raises(
        WeightsError, match=rf"weights='{tag}': resnet50a has no released weights$"
    ):
        find("resnet50a", tag)


def test_an_unknown_variant_is_told_those_that_there_are():
    with pytest.raises(
        WeightsError, match=r"variant='resnet50': must be one of resnet"
    ):
        find("resnet50", "imagenet")
