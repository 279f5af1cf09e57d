"""RandAugment's operations are Pillow's; draws have the stated distributions."""

import functools
import itertools

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps
from scipy import stats

from keras_resnet.data.transforms import erasing, randaugment
from keras_resnet.data.transforms.affine import FILL
from keras_resnet.data.transforms.erasing import random_erase
from keras_resnet.data.transforms.randaugment import OPERATIONS, rand_augment

LEVELS = (0.0, 3.0, 5.0, 9.0, 10.0)
# operation -> what timm makes of each of the LEVELS
POSTERIZE_BITS = (4, 3, 2, 1, 0)
SOLARIZE_THRESHOLD = (256, 180, 128, 26, 0)
SOLARIZE_ADD = (0, 33, 55, 99, 110)
ENHANCE = (0.0, 0.27, 0.45, 0.81, 0.9)  # away from 1, either way
ROTATE_DEGREES = (0.0, 9.0, 15.0, 27.0, 30.0)
SHEAR = (0.0, 0.09, 0.15, 0.27, 0.3)
TRANSLATE = (0.0, 0.135, 0.225, 0.405, 0.45)  # of the side


def posterize(image, bits):
    # Pillow 13 refuses 0, of which older ones make black
    return ImageOps.posterize(image, bits) if bits else image.point([0] * 768)


def solarize_add(image, more):
    return image.point([i + more if i < 128 else i for i in range(256)] * 3)


def affine(image, *matrix):
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, BILINEAR, fillcolor=FILL
    )


BILINEAR = Image.Resampling.BILINEAR
PHOTOMETRIC = {
    "AutoContrast": lambda image, i, sign: ImageOps.autocontrast(image),
    "Equalize": lambda image, i, sign: ImageOps.equalize(image),
    "Invert": lambda image, i, sign: ImageOps.invert(image),
    "PosterizeIncreasing": lambda image, i, sign: posterize(image, POSTERIZE_BITS[i]),
    "SolarizeIncreasing": lambda image, i, sign: ImageOps.solarize(
        image, SOLARIZE_THRESHOLD[i]
    ),
    "SolarizeAdd": lambda image, i, sign: solarize_add(image, SOLARIZE_ADD[i]),
} | {
    f"{kind.__name__}Increasing": lambda image, i, sign, kind=kind: kind(image).enhance(
        1 + sign * ENHANCE[i]
    )
    for kind in (
        ImageEnhance.Color,
        ImageEnhance.Contrast,
        ImageEnhance.Brightness,
        ImageEnhance.Sharpness,
    )
}
GEOMETRIC = {
    "Rotate": lambda image, i, sign: image.rotate(
        sign * ROTATE_DEGREES[i], BILINEAR, fillcolor=FILL
    ),
    "ShearX": lambda image, i, sign: affine(image, 1, sign * SHEAR[i], 0, 0, 1, 0),
    "ShearY": lambda image, i, sign: affine(image, 1, 0, 0, sign * SHEAR[i], 1, 0),
    "TranslateXRel": lambda image, i, sign: affine(
        image, 1, 0, sign * TRANSLATE[i] * image.width, 0, 1, 0
    ),
    "TranslateYRel": lambda image, i, sign: affine(
        image, 1, 0, 0, 0, 1, sign * TRANSLATE[i] * image.height
    ),
}


def make_pictures():
    rng = np.random.default_rng(0)
    walk = np.cumsum(np.cumsum(rng.normal(0, 1, (97, 130, 3)), 0), 1)
    noise = functools.partial(rng.integers, 0, 256, dtype=np.uint8)
    return {
        "noise": noise((61, 47, 3)),
        "smooth": np.clip(120 + walk, 0, 255).astype(np.uint8),
        "dark": rng.integers(20, 90, (113, 113, 3), dtype=np.uint8),
        "grey": np.repeat(noise((40, 30, 1)), 3, 2),
        "constant": np.full((9, 12, 3), (77, 0, 255), np.uint8),
        "two values": rng.choice(np.array([40, 201], np.uint8), (33, 23, 3)),
        "one pixel": np.array([[[3, 200, 90]]], np.uint8),
        "one row": noise((1, 41, 3)),
        "two columns": noise((41, 2, 3)),
    }


PICTURES = make_pictures()


def difference(name, picture, i, sign, reference):
    """Levels between ours and Pillow's, at every pixel."""
    level, direction = tf.constant([LEVELS[i], sign], tf.float64)
    ours = OPERATIONS[name](tf.constant(picture), level, direction).numpy()
    theirs = np.asarray(reference(Image.fromarray(picture), i, sign))
    assert ours.dtype == np.uint8
    assert ours.shape == theirs.shape
    return np.abs(ours.astype(int) - theirs.astype(int))


def test_operations_are_timms_increasing_set():
    assert set(OPERATIONS) == PHOTOMETRIC.keys() | GEOMETRIC.keys()
    assert len(OPERATIONS) == 15


@pytest.mark.parametrize("i", range(5), ids=lambda i: f"level{LEVELS[i]:g}")
@pytest.mark.parametrize("name", PHOTOMETRIC)
def test_photometric_operation_is_pillows_very_picture(name, i):
    for title, picture in PICTURES.items():
        for sign in (1, -1):
            off = difference(name, picture, i, sign, PHOTOMETRIC[name])
            assert off.max() == 0, (title, sign)


@pytest.mark.parametrize("i", range(5), ids=lambda i: f"level{LEVELS[i]:g}")
@pytest.mark.parametrize("name", GEOMETRIC)
def test_geometric_operation_is_pillows_to_one_level_edges_and_fill_too(name, i):
    for title, picture in PICTURES.items():
        for sign in (1, -1):
            off = difference(name, picture, i, sign, GEOMETRIC[name])
            assert off.max() <= 1, (title, sign)


@pytest.mark.parametrize("name", GEOMETRIC)
def test_moved_plain_picture_has_its_colour_and_the_mean_colour_outside(name):
    plain = np.full((50, 60, 3), (255, 77, 1), np.uint8)
    top, sign = tf.constant([10.0, 1.0], tf.float64)
    moved = OPERATIONS[name](plain, top, sign).numpy().reshape(-1, 3)
    assert {tuple(map(int, pixel)) for pixel in moved} == {
        (255, 77, 1),
        (124, 116, 104),
    }


def test_a_picture_between_its_pixels_is_exact_where_it_is_whole():
    # of 8 a + 2 b tenths Pillow's float64 makes one level less here and there
    picture = np.random.default_rng(1).integers(0, 256, (64, 224, 3))
    level, sign = tf.constant([2.5, 1.0], tf.float64)  # 25.2 of 224 pixels
    image = tf.constant(picture, tf.uint8)
    moved = OPERATIONS["TranslateXRel"](image, level, sign)
    expected = (8 * picture[:, 25:-1] + 2 * picture[:, 26:]) // 10
    np.testing.assert_array_equal(moved[:, : 224 - 26], expected)


@pytest.mark.parametrize("name", GEOMETRIC)
def test_level_0_moves_nothing(name):
    level, sign = tf.constant([0.0, 1.0], tf.float64)
    for picture in PICTURES.values():
        np.testing.assert_array_equal(OPERATIONS[name](picture, level, sign), picture)


def over_seeds(function, count):
    """function(seed) of `count` seeds, each result stacked."""
    seeds = tf.data.Dataset.range(count).map(
        lambda index: function(tf.stack([tf.constant(3, tf.int64), index]))
    )
    return tf.nest.map_structure(np.asarray, next(iter(seeds.batch(count))))


def test_each_operation_is_drawn_alike_and_applied_half_of_the_times():
    operations, applied, levels, signs = over_seeds(
        lambda seed: randaugment._draw(seed, 9, 2, 0.5), 6000
    )
    assert operations.shape == (6000, 2)
    counts = np.bincount(operations.ravel(), minlength=15)
    assert counts.size == 15
    assert stats.chisquare(counts).pvalue > 0.01
    for coin in (applied, signs > 0):
        assert stats.binomtest(int(coin.sum()), coin.size).pvalue > 0.01
    assert set(np.unique(signs)) == {-1, 1}
    # and none tells of another, of the same operation or of the other one
    quarters = np.digitize(levels, stats.norm(9, 0.5).ppf([0.25, 0.5, 0.75]))
    columns = np.hstack([operations, applied, quarters, signs]).T
    pairs = [
        stats.chi2_contingency(stats.contingency.crosstab(a, b).count).pvalue
        for a, b in itertools.combinations(columns, 2)
    ]
    assert min(pairs) > 0.01 / len(pairs)


def levels_drawn(magnitude, std):
    draw = functools.partial(randaugment._draw, magnitude=magnitude, ops=3, std=std)
    return over_seeds(draw, 1000)[2].ravel()


def test_level_is_normal_and_clipped_at_0_and_10():
    assert stats.kstest(levels_drawn(5, 0.5), stats.norm(5, 0.5).cdf).pvalue > 0.01
    assert set(levels_drawn(9, 0.0)) == {9.0}
    for magnitude, end in ((9, 10), (1, 0)):
        levels = levels_drawn(magnitude, 2.0)
        assert 0 <= levels.min() < levels.max() <= 10
        beyond = stats.norm.cdf(-0.5)  # a level more at a deviation of two
        at_end = int((levels == end).sum())
        assert stats.binomtest(at_end, levels.size, beyond).pvalue > 0.01


@pytest.fixture(scope="module")
def augment():
    """rand_augment at magnitude 9, 2 operations, std 0.5, as a graph of any size."""
    return tf.function(
        functools.partial(rand_augment, magnitude=9, ops=2, std=0.5),
        input_signature=[
            tf.TensorSpec([None, None, 3], tf.uint8),
            tf.TensorSpec([2], tf.int64),
        ],
    )


def test_picture_is_what_the_drawn_operations_make_in_turn(augment):
    picture = PICTURES["smooth"]
    seen = set()
    for index in range(100):
        seed = tf.constant([1, index], tf.int64)
        expected = tf.constant(picture)
        draws = randaugment._draw(seed, 9, 2, 0.5)
        for operation, applied, level, sign in zip(*draws):
            if applied:
                name = list(OPERATIONS)[int(operation)]
                expected = OPERATIONS[name](expected, level, sign)
                seen.add(name)
        np.testing.assert_array_equal(augment(picture, seed), expected)
    assert seen == OPERATIONS.keys()


def test_same_seed_same_picture_other_seed_other_picture(augment):
    picture = PICTURES["smooth"]
    seeds = [tf.constant([4, index], tf.int64) for index in range(20)]
    tf.random.set_seed(1)
    first = [augment(picture, seed).numpy().tobytes() for seed in seeds]
    tf.random.set_seed(2)  # the process's own seed has no say
    assert [augment(picture, seed).numpy().tobytes() for seed in seeds] == first
    # a quarter of the pictures stays as it is
    assert len(set(first)) > 10


def test_map_over_pictures_of_any_size(augment):
    files = [tf.io.encode_png(picture).numpy() for picture in PICTURES.values()]

    def change(index, file):
        image = tf.io.decode_png(file, 3)
        seed = tf.stack([tf.constant(2, tf.int64), index])
        return rand_augment(image, seed, 9, 2, 0.5), random_erase(image, seed, 1.0)

    changed = tf.data.Dataset.from_tensor_slices(files).enumerate().map(change)
    assert {tuple(spec.shape) for spec in changed.element_spec} == {(None, None, 3)}
    for index, (picture, (augmented, erased)) in enumerate(
        zip(PICTURES.values(), changed.as_numpy_iterator())
    ):
        seed = tf.constant([2, index], tf.int64)
        np.testing.assert_array_equal(augmented, augment(picture, seed))
        np.testing.assert_array_equal(erased, random_erase(picture, seed, 1.0))


def test_known_size_stays_known():
    images = tf.data.Dataset.from_tensors(tf.zeros([20, 30, 3], tf.uint8))
    seed = tf.constant([0, 0], tf.int64)
    for change in (
        lambda image: rand_augment(image, seed, 9),
        lambda image: random_erase(image, seed, 0.5),
    ):
        assert images.map(change).element_spec == images.element_spec


@pytest.mark.parametrize("shape", [(1000, 1000), (300, 900)])
def test_erased_rectangle_has_the_papers_area_and_aspect(shape):
    top, left, height, width = over_seeds(
        lambda seed: tuple(erasing._rectangle(tf.constant(shape), seed)), 3000
    )
    for start, extent, side in ((top, height, shape[0]), (left, width, shape[1])):
        assert start.min() >= 0
        assert extent.min() > 0
        assert (start + extent).max() <= side
    if shape[0] == shape[1]:  # elsewhere those that do not fit are not missed alike
        area = height * width / np.prod(shape)
        assert stats.kstest(area, stats.uniform(0.02, 1 / 3 - 0.02).cdf).pvalue > 0.01
        aspect = np.log(height / width)
        most = np.log(1 / 0.3)
        assert stats.kstest(aspect, stats.uniform(-most, 2 * most).cdf).pvalue > 0.01
    for start, extent, side in ((top, height, shape[0]), (left, width, shape[1])):
        place = (start + 0.5) / (side - extent + 1)
        assert stats.kstest(place, stats.uniform.cdf).pvalue > 0.01


def test_erased_pixels_are_uniform_noise_in_one_rectangle_and_the_rest_untouched():
    black, white = (np.full((90, 120, 3), value, np.uint8) for value in (0, 255))
    for index in range(10):
        seed = tf.constant([6, index], tf.int64)
        on_black = random_erase(black, seed, 1.0).numpy()
        on_white = random_erase(white, seed, 1.0).numpy()
        erased = (on_black == on_white).all(-1)
        rows, columns = np.nonzero(erased)
        box = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert erased[box].all()
        assert erased.sum() == erased[box].size
        assert not on_black[~erased].any()
        assert (on_white[~erased] == 255).all()
        noise = on_black[box].reshape(-1, 3)
        assert stats.chisquare(np.bincount(noise.ravel(), minlength=256)).pvalue > 0.001
        correlation = np.corrcoef(noise.T) - np.eye(3)
        assert np.abs(correlation).max() < 4 / np.sqrt(len(noise))


def test_picture_is_erased_with_the_given_probability():
    picture = tf.constant(PICTURES["grey"])
    for probability in (0.0, 0.3, 1.0):
        erase = functools.partial(random_erase, picture, probability=probability)
        changed = (over_seeds(erase, 1000) != PICTURES["grey"]).any((1, 2, 3))
        test = stats.binomtest(int(changed.sum()), changed.size, probability)
        assert test.pvalue > 0.01


@pytest.mark.parametrize("shape", [(1, 1), (1, 1000), (1000, 1)])
def test_picture_that_no_rectangle_fits_is_left_alone(shape):
    picture = tf.constant(np.full((*shape, 3), 9, np.uint8))
    pictures = over_seeds(lambda seed: random_erase(picture, seed, 1.0), 50)
    assert (pictures == 9).all()


@pytest.mark.parametrize(
    ("function", "arguments", "words"),
    [
        (rand_augment, {"magnitude": 0}, r"magnitude=0: must be in \(0, 10\]"),
        (rand_augment, {"magnitude": 10.5}, "magnitude=10.5"),
        (rand_augment, {"magnitude": 9, "ops": 0}, "ops=0: must be 1 or more"),
        (rand_augment, {"magnitude": 9, "std": -0.5}, "std=-0.5: must be 0 or more"),
        (random_erase, {"probability": -0.1}, "probability=-0.1: must be in"),
        (random_erase, {"probability": 1.1}, "probability=1.1"),
    ],
)
def test_bad_argument_is_named(function, arguments, words):
    with pytest.raises(ValueError, match=words):
        function(PICTURES["noise"], tf.constant([0, 0], tf.int64), **arguments)
