"""Colour: one affine map a picture, equal to a slow reference, drawn as published."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from keras_resnet.data.transforms.colour import DRAWS, distort

YIQ = np.array(
    [
        [0.299, 0.587, 0.114],
        [0.59590059, -0.27455667, -0.32134392],
        [0.21153661, -0.52273617, 0.31119955],
    ]
)
GREY = np.array([0.299, 0.587, 0.114])
EIGENVALUES = np.array([55.46, 4.794, 1.148])
EIGENVECTORS = np.array(
    [
        [-0.5675, 0.7192, 0.4009],
        [-0.5808, -0.0045, -0.8140],
        [-0.5836, -0.6948, 0.4203],
    ]
)


def batch(count, size=16, seed=0):
    shape = (count, size, size, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def uniform(count, seed=0):
    return np.random.default_rng(seed).random((count, DRAWS), np.float32)


def hue_saturation_brightness(image, hue, saturation, brightness):
    """A step at a time: to YIQ, turn the chroma, stretch it, back, scale."""
    luma, i, q = np.moveaxis(image @ YIQ.T, -1, 0)
    chroma = (i + 1j * q) * np.exp(1j * np.pi * (hue - 1)) * saturation
    yiq = np.stack([luma, chroma.real, chroma.imag], -1)
    return brightness * (yiq @ np.linalg.inv(YIQ).T)


def brightness_contrast_saturation(image, brightness, contrast, saturation):
    """GluonCV's three steps, one after the other."""
    image = image * brightness
    image = image * contrast + (1 - contrast) * (image @ GREY).mean()
    grey = (image @ GREY)[..., None]
    return image * saturation + (1 - saturation) * grey


REFERENCES = {
    "hue-saturation-brightness": hue_saturation_brightness,
    "brightness-contrast-saturation": brightness_contrast_saturation,
}


@pytest.mark.parametrize("colours", REFERENCES)
def test_colour_is_the_float64_reference(colours, tiny):
    recipe = tiny.replace(colour=0.4, colours=colours, lighting=0.1, flip=0.5)
    images, draws = batch(50), uniform(50)
    ours = distort(tf.constant(images), draws, recipe).numpy()
    for image, draw, result in zip(images.astype(np.float64), draws, ours):
        if draw[6] < 0.5:
            image = image[:, ::-1]
        expected = REFERENCES[colours](image, *(1 + 0.4 * (2 * draw[:3] - 1)))
        noise = stats.norm.ppf(draw[3:6].astype(np.float64)) * 0.1
        expected = expected + EIGENVECTORS @ (noise * EIGENVALUES)
        expected = np.floor(np.clip(expected, 0, 255) + 0.5)
        difference = np.abs(result - expected)
        assert difference.max() <= 1
        assert difference.mean() < 0.001


def test_gluons_steps_commute(tiny):
    image, factors = batch(1)[0].astype(np.float64), (0.7, 1.3, 0.8)
    expected = brightness_contrast_saturation(image, *factors)
    other = image @ (0.8 * np.eye(3) + 0.2 * np.outer(GREY, np.ones(3)))
    other = other * 1.3 - 0.3 * (other @ GREY).mean()
    np.testing.assert_allclose(0.7 * other, expected, atol=1e-9)


def test_factors_are_uniform_and_noise_is_normal(tiny):
    grey = np.full((3000, 1, 1, 3), 100, np.uint8)
    recipe = tiny.replace(colour=0.4, lighting=0.0, flip=0.0)
    values = distort(grey, uniform(3000), recipe).numpy()[:, 0, 0].astype(float)
    np.testing.assert_array_equal(values, values[:, :1].repeat(3, 1))  # grey stays grey
    jittered = values[:, 0] + np.random.default_rng(1).uniform(-0.5, 0.5, 3000)
    assert stats.kstest(jittered, stats.uniform(60, 80).cdf).pvalue > 0.01

    recipe = tiny.replace(colour=0.0, lighting=1.0, flip=0.0)
    values = distort(grey, uniform(3000), recipe).numpy()[:, 0, 0]
    axes = (values.astype(float) - 100) @ np.linalg.inv(EIGENVECTORS).T
    inside = ((values > 0) & (values < 255)).all(1)
    assert inside.mean() > 0.9
    # along the second axis, which clipping at white and black hardly touches
    noise = axes[inside, 1]
    assert stats.kstest(noise, stats.norm(0, 4.794).cdf).pvalue > 0.01
    assert stats.kstest(noise, stats.norm(0, 2 * 4.794).cdf).pvalue < 1e-6


@pytest.mark.parametrize("colour", [0.0, 0.4])
def test_flip_is_a_mirror_and_happens_as_often_as_asked(colour, tiny):
    images, draws = tf.constant(batch(400)), uniform(400)
    recipe = tiny.replace(colour=colour, lighting=0.0, flip=0.3)
    flipped = distort(images, draws, recipe).numpy()
    plain = distort(images, draws, recipe.replace(flip=0.0)).numpy()
    mirrored = (flipped == plain[:, :, ::-1]).all((1, 2, 3))
    straight = (flipped == plain).all((1, 2, 3))
    assert (mirrored ^ straight).all()
    np.testing.assert_array_equal(mirrored, draws[:, 6] < 0.3)


def test_no_colour_leaves_the_pixels(tiny):
    images = batch(3)
    recipe = tiny.replace(colour=0.0, lighting=0.0, flip=0.0)
    np.testing.assert_array_equal(distort(images, uniform(3), recipe), images)
