"""Crops: evaluation's are Pillow's, training's are drawn as the paper's code draws."""

import io
import re

import matplotlib.cbook as cbook
import numpy as np
import pytest
import tensorflow as tf
from checkpoints import GOLDENS
from conftest import load_one
from hostile_pictures import encoded
from PIL import Image
from scipy import stats

from keras_resnet import data
from keras_resnet.data.transforms.random_crop import (
    _decode_crop,
    draw_crops,
    random_window,
)
from keras_resnet.data.transforms.resize import resize_as_pillow
from keras_resnet.info import Protocol

CROPS = sorted((GOLDENS / "pictures" / "eval").glob("*.eval_*"))


def noise(height, width, seed=0):
    shape = (height, width, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def levels_apart(ours, theirs):
    return np.abs(np.asarray(ours).astype(int) - np.asarray(theirs).astype(int))


@pytest.mark.addons
@pytest.mark.parametrize("path", CROPS, ids=lambda path: path.name)
def test_evaluation_crop_is_timms_on_pillow(path):
    source, size, crop_pct, interpolation = re.fullmatch(
        r"(.*)\.eval_(\d+)_([\d.]+)_(\w+)\.png", path.name
    ).groups()
    image = data.decode_image(tf.io.read_file(str(path.with_name(source))))
    ours = data.eval_crop(image, int(size), float(crop_pct), interpolation)
    np.testing.assert_array_equal(ours, Image.open(path))


def test_there_are_crops_to_compare_with():
    assert len(CROPS) == 19


# from to: smaller, larger, to one side only, beyond the filter, a single pixel
SIZES = [
    ((375, 500), (256, 341)),
    ((40, 36), (300, 270)),
    ((375, 500), (20, 9)),
    ((50, 70), (50, 31)),
    pytest.param((1, 500), (32, 16000), marks=pytest.mark.slow),
    ((1, 1), (5, 7)),
    ((32, 32), (224, 256)),
    ((2, 3), (50, 40)),
    ((9000, 40), (36, 40)),
]
RESIZE = tf.function(
    resize_as_pillow,
    input_signature=[
        tf.TensorSpec([None, None, 3], tf.uint8),
        tf.TensorSpec([], tf.int32),
        tf.TensorSpec([], tf.int32),
    ],
)


@pytest.mark.parametrize(("before", "after"), SIZES)
def test_resize_is_pillows(before, after):
    image = noise(*before)
    for interpolation in ("bicubic", "bilinear"):
        expected = Image.fromarray(image).resize(
            after[::-1], Image.Resampling[interpolation.upper()]
        )
        ours = resize_as_pillow(image, *after, interpolation)
        np.testing.assert_array_equal(ours, expected)
    # the loop for sizes known only to the graph gives what the unrolled one does
    np.testing.assert_array_equal(
        RESIZE(image, *after), resize_as_pillow(image, *after)
    )


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_resize_of_stripes_is_pillows(interpolation):
    """The largest sums that the pixels of an image can give: each is 0 or 255."""
    for seed, (before, after) in enumerate([(7000, 28), (9000, 100), (50, 49)]):
        rows = np.random.default_rng(seed).integers(0, 2, (before, 1, 1)) * 255
        image = np.broadcast_to(rows, (before, 3, 3)).astype(np.uint8)
        kind = Image.Resampling[interpolation.upper()]
        expected = Image.fromarray(image).resize((3, after), kind)
        ours = resize_as_pillow(image, after, 3, interpolation)
        np.testing.assert_array_equal(ours, expected)


def test_window_of_a_resize_is_that_window():
    image = noise(90, 120)
    whole = resize_as_pillow(image, 61, 80).numpy()
    part = resize_as_pillow(image, 61, 80, window=(7, 13, 33, 50))
    np.testing.assert_array_equal(part, whole[7:40, 13:63])


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (2, 3), (31, 33)])
def test_evaluation_crop_takes_any_shape(shape):
    image = np.full((*shape, 3), 77, np.uint8)
    np.testing.assert_array_equal(
        data.eval_crop(image, 32, 0.9), np.full((32, 32, 3), 77)
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"crop_pct": 0.0}, "crop_pct=0.0"),
        ({"crop_pct": 1.5}, "crop_pct=1.5"),
        ({"interpolation": "nearest"}, "interpolation='nearest'.*bicubic"),
    ],
)
def test_evaluation_crop_names_a_bad_argument(arguments, words):
    with pytest.raises(ValueError, match=words):
        data.eval_crop(np.zeros((8, 8, 3), np.uint8), 8, **arguments)


@pytest.mark.parametrize("shape", [(60, 83), (83, 60), (64, 64)])
def test_ten_crops_are_the_corners_and_the_middle_and_their_mirrors(shape):
    image = noise(*shape)
    crops = data.ten_crop(image, 32, 0.8).numpy()
    height, width = (40, 40 * shape[1] // shape[0])
    if shape[0] > shape[1]:
        height, width = 40 * shape[0] // shape[1], 40
    resized = np.asarray(Image.fromarray(image).resize((width, height), Image.BICUBIC))
    middle = round((height - 32) / 2), round((width - 32) / 2)
    corners = [(0, 0), (0, width - 32), (height - 32, 0), (height - 32, width - 32)]
    for crop, mirror, (top, left) in zip(crops, crops[5:], [*corners, middle]):
        expected = resized[top : top + 32, left : left + 32]
        np.testing.assert_array_equal(crop, expected)
        np.testing.assert_array_equal(mirror, crop[:, ::-1])
    np.testing.assert_array_equal(crops[4], data.eval_crop(image, 32, 0.8))


def test_a_line_of_pixels_is_cropped_and_not_enlarged_as_a_whole():
    line = noise(1, 30_000)
    assert data.ten_crop(line, 224).shape == (10, 224, 224, 3)
    assert data.eval_crop(line, 224).shape == (224, 224, 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="7680000"):
        data.resize_short(line, 256)  # 2 GB


def windows(shape, recipe, count=2000):
    """[count, 4] windows, from draws that the seed 0 determines."""
    crops = draw_crops(recipe, count, [0, 0])
    draw = tf.function(lambda crop: random_window(tf.constant(shape), recipe, crop))
    return tf.map_fn(draw, crops, fn_output_signature=tf.int32).numpy()


def reference_window(shape, recipe, random):
    """The same distribution, said plainly, in whole float64."""
    height, width = shape
    for _ in range(10):
        area = random.uniform(recipe.min_area, 1) * height * width
        aspect = random.uniform(1 / recipe.max_aspect, recipe.max_aspect)
        if random.random() < 0.5:
            aspect = 1 / aspect
        h, w = round((area / aspect) ** 0.5), round((area * aspect) ** 0.5)
        if 0 < h <= height and 0 < w <= width:
            return (
                random.integers(height - h + 1),
                random.integers(width - w + 1),
                h,
                w,
            )
    h = min(height, int(width * recipe.max_aspect))
    w = min(width, int(height * recipe.max_aspect))
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("shape", [(375, 500), (800, 300), (1000, 90)])
def test_random_crops_are_distributed_as_the_papers_code_draws_them(shape, tiny):
    recipe = tiny.replace(min_area=0.08, max_aspect=4 / 3)
    ours = windows(shape, recipe)
    random = np.random.default_rng(1)
    theirs = np.array([reference_window(shape, recipe, random) for _ in range(2000)])
    for crops in (ours, theirs):
        assert (crops[:, 2:] > 0).all()
        assert (crops[:, :2] >= 0).all()
        assert (crops[:, :2] + crops[:, 2:] <= shape).all()

    def measures(crops):
        yield crops[:, 2] * crops[:, 3]  # area
        yield crops[:, 3] / crops[:, 2]  # aspect
        yield from crops.T[:2]  # place

    for a, b in zip(measures(ours), measures(theirs)):
        assert stats.ks_2samp(a, b).pvalue > 0.01


def test_area_of_a_crop_that_fits_at_once_is_uniform(tiny):
    recipe = tiny.replace(min_area=0.08, max_aspect=1.0)
    areas = np.prod(windows((4000, 4000), recipe)[:, 2:] / 4000.0, axis=1)
    assert stats.kstest(areas, stats.uniform(0.08, 0.92).cdf).pvalue > 0.01


def test_scale_augmentation_draws_short_sides_uniformly(tiny):
    recipe = tiny.replace(train_size=224, scales=(256, 480))
    crops = windows((3000, 4000), recipe)
    np.testing.assert_array_equal(crops[:, 2], crops[:, 3])
    short = 224 * 3000 / crops[:, 2]
    assert stats.kstest(short, stats.uniform(255.5, 225).cdf).pvalue > 0.01
    assert (crops[:, :2] + crops[:, 2:] <= (3000, 4000)).all()
    free = (4000 - crops[:, 3]).astype(float)
    assert stats.kstest(crops[:, 1] / free, "uniform").pvalue > 0.01


def test_crop_of_a_jpeg_alone_equals_the_crop_of_the_whole(tiny):
    # the fused path decodes whole blocks around the window: chroma may differ there
    still = tiny.replace(min_area=0.3)
    grey = np.repeat(noise(64, 96, 3)[..., :1], 3, 2)
    encoded = tf.io.encode_jpeg(grey, quality=95)
    as_png = tf.io.encode_png(tf.io.decode_jpeg(encoded, dct_method="INTEGER_ACCURATE"))
    for index in range(5):
        seed = tf.constant([0, index], tf.int64)
        np.testing.assert_array_equal(
            load_one(encoded, still, seed), load_one(as_png, still, seed)
        )


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_antialiased_training_crop_is_pillows_resize(interpolation, tiny):
    recipe = tiny.replace(
        min_area=1.0,
        max_aspect=1.0,
        train_antialias=True,
        train_interpolation=interpolation,
    )
    image = noise(90, 90)
    ours = load_one(tf.io.encode_png(image), recipe, tf.constant([0, 0], tf.int64))
    expected = Image.fromarray(image).resize(
        (32, 32), Image.Resampling[interpolation.upper()]
    )
    np.testing.assert_array_equal(ours, expected)


def test_training_crop_without_antialias_interpolates_four_pixels(tiny):
    # what OpenCV's INTER_LINEAR computes, half-pixel centres
    image = noise(70, 70)
    recipe = tiny.replace(min_area=1.0, max_aspect=1.0)
    ours = load_one(tf.io.encode_png(image), recipe, tf.constant([0, 0], tf.int64))
    place = (np.arange(32) + 0.5) * 70 / 32 - 0.5
    low, share = np.floor(place).astype(int), (place % 1)[:, None]
    rows = image[low] * (1 - share[..., None]) + image[low + 1] * share[..., None]
    both = rows[:, low] * (1 - share) + rows[:, low + 1] * share
    assert levels_apart(ours, np.floor(both + 0.5)).max() <= 1
    assert levels_apart(ours, np.floor(both + 0.5)).mean() < 0.001


def test_pixels_are_cropped_as_their_encoding_is(tiny):
    image = noise(40, 50)
    seed = tf.constant([3, 4], tf.int64)
    np.testing.assert_array_equal(
        load_one(tf.constant(image), tiny, seed),
        load_one(tf.io.encode_png(image), tiny, seed),
    )


def grace():
    """A photograph, uint8 [600, 512, 3]."""
    with Image.open(
        cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
    ) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("ratio", [1, 2, 4, 8])
def test_smaller_decode_is_libjpegs_and_its_window_in_the_smaller_pixels(
    ratio, progressive
):
    photo = encoded(grace()[:599, :505], subsampling=0, progressive=progressive)
    with Image.open(io.BytesIO(photo)) as image:
        if ratio > 1:
            image.draft("RGB", (505 // ratio, 599 // ratio))
        whole = np.asarray(image)
    assert whole.shape[:2] == (-(-599 // ratio), -(-505 // ratio))
    random = np.random.default_rng(ratio)
    windows = [(0, 0, 599, 505), (591, 497, 8, 8), (3, 4, 300, 8)]
    for _ in range(20):
        height, width = random.integers(8, (600, 506))
        top, left = random.integers(0, (600 - height, 506 - width))
        windows.append((top, left, height, width))
    for window in np.array(windows, np.int32):
        part = _decode_crop(tf.constant(photo), tf.constant(window), ratio).numpy()
        edges = np.concatenate([window[:2], window[:2] + window[2:]]) / ratio
        top, left, bottom, right = np.floor(edges + 0.5).astype(int)
        assert part.shape[0] >= window[2] // ratio
        assert part.shape[1] >= window[3] // ratio
        np.testing.assert_array_equal(part, whole[top:bottom, left:right])


@pytest.mark.slow
def test_crops_below_twice_the_train_size_are_decoded_in_full(tiny):
    photo = encoded(grace(), quality=92)
    on, off = tiny.replace(min_area=0.05), tiny.replace(scaled_decode=False)
    off = off.replace(min_area=0.05)
    seen = set()
    for size in (90, 150):
        for index in range(12):
            seed = tf.constant([size, index], tf.int64)
            crop = draw_crops(on, 1, seed)[0]
            window = random_window(tf.constant([600, 512]), on, crop).numpy()
            smaller = min(window[2:]) >= 2 * size
            pair = [
                load_one(photo, it.replace(train_size=size), seed) for it in (on, off)
            ]
            assert (levels_apart(*pair).max() > 0) == smaller
            seen.add((size, bool(smaller)))
    assert seen == {(90, True), (90, False), (150, True), (150, False)}


def test_only_jpegs_are_decoded_smaller(tiny):
    image = grace()
    seed = tf.constant([0, 0], tf.int64)
    for given in (encoded(image, "png"), tf.constant(image)):
        on, off = (
            load_one(given, tiny.replace(scaled_decode=it), seed)
            for it in (True, False)
        )
        np.testing.assert_array_equal(on, off)


# crops of 281 to 512 pixels to 64: a window is off by up to half a pixel of the smaller
# image, and without antialias most pixels are skipped where libjpeg averages them
@pytest.mark.parametrize(
    ("antialias", "mean", "psnr"),
    [(True, 4.0, 31.0), pytest.param(False, 9.5, 23.0, marks=pytest.mark.slow)],
)
def test_training_picture_of_a_smaller_decode_is_near(antialias, mean, psnr, tiny):
    photo = encoded(grace(), quality=92)
    recipe = tiny.replace(train_size=64, min_area=0.3, train_antialias=antialias)
    apart = []
    for index in range(24):
        seed = tf.constant([1, index], tf.int64)
        pair = [
            load_one(photo, recipe.replace(scaled_decode=it), seed)
            for it in (True, False)
        ]
        apart.append(levels_apart(*pair))
    decibels = [10 * np.log10(255**2 / np.mean(it**2.0)) for it in apart]
    assert np.mean(apart) < mean
    assert np.mean(decibels) > psnr


@pytest.mark.parametrize("size", [40, 128, 224, 500])
def test_evaluation_may_decode_smaller(size):
    """At the largest ratio that leaves the short side, 512, large enough."""
    photo = encoded(grace(), quality=92)
    scaled = Protocol(size, 1.0, scaled_decode=True)
    ratio = {40: 8, 128: 4, 224: 2, 500: 1}[size]
    method = {"dct_method": "INTEGER_ACCURATE"}
    smaller = tf.io.decode_jpeg(photo, 3, ratio, **method)
    np.testing.assert_array_equal(
        data.load_eval(photo, scaled), data.eval_crop(smaller, size, 1.0)
    )
    apart = levels_apart(
        data.load_eval(photo, scaled), data.load_eval(photo, Protocol(size, 1.0))
    )
    assert (apart.max() > 0) == (ratio > 1)
    assert apart.mean() < 3
    png = encoded(grace(), "png")
    np.testing.assert_array_equal(
        data.load_eval(png, scaled), data.load_eval(png, Protocol(size, 1.0))
    )
