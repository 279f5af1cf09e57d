"""Mixup and CutMix: the labels say what the pictures are."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from keras_resnet import data
from keras_resnet.data.transforms.mix import draw_beta

KINDS = ["uint8", "float16", "bfloat16", "float32"]


def batch(count=4, size=8, kind="float32"):
    """Picture i is all i, and its label is class i."""
    values = np.arange(count)[:, None, None, None] * np.ones((1, size, size, 3))
    return tf.cast(values, kind), tf.eye(count)


@pytest.mark.parametrize(
    "alpha",
    [0.2, *(pytest.param(it, marks=pytest.mark.slow) for it in (0.1, 1.0, 3.0))],
)
def test_share_is_beta_distributed(alpha):
    draw = tf.function(lambda i: draw_beta(alpha, [0, i]))
    shares = np.array([draw(i).numpy() for i in tf.range(2000)])
    assert ((shares >= 0) & (shares <= 1)).all()
    # what float32 cannot tell from 0 and 1 is a tie, which the test does not allow for
    random = np.random.default_rng(0).beta(alpha, alpha, 2000).astype(np.float32)
    assert stats.ks_2samp(shares, random).pvalue > 0.01
    assert stats.kstest(shares, "uniform").pvalue < 1e-6 or alpha == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_mixup_mixes_pictures_as_it_mixes_labels(kind):
    images, labels = batch(kind=kind)
    mixed, mixed_labels = data.mixup(images, labels, 1.0, (0, 3))
    assert mixed.dtype == ("float32" if kind == "uint8" else kind)
    assert mixed_labels.dtype == tf.float32
    expected = mixed_labels.numpy() @ np.arange(4)
    error = {"float16": 1e-3, "bfloat16": 8e-3}.get(kind, 1e-6)
    np.testing.assert_allclose(tf.cast(mixed, "float32")[:, 0, 0, 0], expected, error)
    np.testing.assert_allclose(mixed_labels.numpy().sum(1), 1, rtol=1e-6)
    assert len(np.unique(mixed_labels)) > 2


@pytest.mark.parametrize("kind", KINDS)
def test_cutmix_labels_are_the_shares_of_the_area(kind):
    images, labels = batch(count=6, size=20, kind=kind)
    shares = set()
    for seed in range(30):
        pasted, mixed = data.cutmix(images, labels, 1.0, (0, seed))
        assert pasted.dtype == kind
        pasted = tf.cast(pasted, "float32").numpy()
        for number in range(6):
            own = (pasted[number] == number).all(-1)
            other = (pasted[number] == 5 - number).all(-1)
            assert (own ^ other).all()
            np.testing.assert_allclose(mixed[number, number], own.mean(), atol=1e-6)
            np.testing.assert_allclose(
                mixed[number, 5 - number], other.mean(), atol=1e-6
            )
            rows, columns = other.any(1), other.any(0)  # one box
            np.testing.assert_array_equal(other, rows[:, None] & columns)
        shares.add(float(mixed[0, 0]))
    assert len(shares) > 20


def test_cutmix_box_is_distributed_as_published():
    images, labels = batch(count=2, size=100)
    draw = tf.function(lambda i: data.cutmix(images, labels, 1.0, [0, i])[1][0, 0])
    ours = np.array([draw(i).numpy() for i in tf.range(1500)])
    random = np.random.default_rng(0)
    theirs = []
    for _ in range(1500):  # the paper's rand_bbox
        side = int(100 * np.sqrt(1 - random.beta(1, 1)))
        y, x = random.integers(100, size=2)
        sides = [
            min(max(c - side // 2 + side, 0), 100) - max(c - side // 2, 0)
            for c in (y, x)
        ]
        theirs.append(1 - sides[0] * sides[1] / 10000)
    assert stats.ks_2samp(ours, theirs).pvalue > 0.01


@pytest.mark.parametrize("mix", [data.mixup, data.cutmix])
def test_class_numbers_are_refused(mix):
    images, _ = batch()
    for labels in (np.arange(4), np.eye(4, dtype=np.int32), np.ones(4, np.float32)):
        with pytest.raises(ValueError, match=r"labels: .*must be one-hot.*tf.one_hot"):
            mix(images, labels, 0.2, (0, 0))
    with pytest.raises(ValueError, match=r"alpha=0: must be above 0"):
        mix(*batch(), 0, (0, 0))


@pytest.mark.parametrize("mix", [data.mixup, data.cutmix])
def test_same_seed_mixes_alike_and_half_precision_is_finite(mix):
    images, labels = batch(kind="float16")
    images = images * 80  # to the end of [0, 255]
    once, again, other = (mix(images, labels, 0.2, (5, i)) for i in (1, 1, 2))
    np.testing.assert_array_equal(once[1], again[1])
    assert (once[1].numpy() != other[1].numpy()).any()
    assert np.isfinite(once[0].numpy().astype(np.float32)).all()
