"""What a recipe's numbers mean: losses, schedules, rates."""

import numpy as np
import pytest

from keras_resnet.backend import keras, ops
from keras_resnet.errors import RecipeError
from keras_resnet.optimizers import CoupledSGD, Lamb
from keras_resnet.recipe import Recipe
from keras_resnet.recipes import RECIPES
from keras_resnet.train.callbacks import plateau_drops
from keras_resnet.train.objective import (
    BinaryCrossentropy,
    loss,
    optimizer,
    schedule,
)

LOGITS = np.array([[2.0, 0.0, -1.0, 0.5]], np.float32)
LOG_P = LOGITS - np.log(np.exp(LOGITS).sum())
FIRST = np.eye(4, dtype=np.float32)[:1]


@pytest.mark.parametrize(
    ("form", "target"),
    [
        ("all-classes", [0.925, 0.025, 0.025, 0.025]),
        ("other-classes", [0.9, 0.1 / 3, 0.1 / 3, 0.1 / 3]),
    ],
)
def test_smoothing_has_the_codes_form_and_the_papers(form, target):
    smooth = loss(Recipe(label_smoothing=0.1, smoothing=form), 4)
    ours = float(smooth(FIRST, LOGITS))
    assert ours == pytest.approx(-(target * LOG_P).sum(), rel=1e-6)


@pytest.mark.parametrize("form", ["all-classes", "other-classes"])
def test_gap_of_the_logits_at_the_optimum_is_the_published_one(form):
    # arXiv 1812.01187 section 5.2: log((K - 1)(1 - e) / e), and the codes' analogue
    classes, e = 1000, 0.1
    shown = loss(Recipe(smoothing=form), classes)
    on, off = (
        (1 - e, e / 999) if form == "other-classes" else (1 - e + e / 1000, e / 1000)
    )
    gap = np.log(on / off)
    assert round(gap, 4) == {"other-classes": 9.1040, "all-classes": 9.1051}[form]
    logits = np.zeros((1, classes), np.float64)
    truth = np.eye(classes)[:1]

    def at(gap):
        logits[0, 0] = gap
        return float(shown(truth, ops.convert_to_tensor(logits, "float64")))

    assert at(gap) < min(at(gap - 0.01), at(gap + 0.01))


@pytest.mark.parametrize("form", ["all-classes", "other-classes"])
def test_mixed_labels_are_smoothed_as_the_mix_of_smoothed_ones(form):
    smooth = loss(Recipe(label_smoothing=0.1, smoothing=form), 4)
    second = np.eye(4, dtype=np.float32)[1:2]
    mixed = float(smooth(0.3 * FIRST + 0.7 * second, LOGITS))
    parts = 0.3 * float(smooth(FIRST, LOGITS)) + 0.7 * float(smooth(second, LOGITS))
    assert mixed == pytest.approx(parts, rel=1e-6)


def test_smoothing_that_leaves_nothing_is_refused():
    recipe = Recipe(label_smoothing=0.6, smoothing="other-classes")
    with pytest.raises(RecipeError, match=r"label_smoothing=0.6.*at most 0.5"):
        loss(recipe, 2)


def sigmoid_loss(targets):
    p = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    return -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).mean()


@pytest.mark.parametrize(
    ("threshold", "smoothing", "labels", "targets"),
    [
        (0.0, 0.0, [1, 0, 0, 0], [1, 0, 0, 0]),
        (0.0, 0.0, [0.7, 0.3, 0, 0], [0.7, 0.3, 0, 0]),
        (0.2, 0.0, [0.7, 0.3, 0, 0], [1, 1, 0, 0]),
        (0.2, 0.0, [0.85, 0.15, 0, 0], [1, 0, 0, 0]),
        (0.2, 0.1, [0.7, 0.3, 0, 0], [0.925, 0.925, 0.025, 0.025]),
    ],
)
def test_binary_loss_counts_every_class_that_was_mixed_in(
    threshold, smoothing, labels, targets
):
    binary = BinaryCrossentropy(threshold, smoothing)
    ours = float(binary(np.array([labels], np.float32), LOGITS))
    assert ours == pytest.approx(sigmoid_loss(np.array([targets])), rel=1e-6)
    again = keras.losses.deserialize(keras.losses.serialize(binary))
    assert again.get_config() == binary.get_config()


def test_binary_loss_is_finite_for_any_logit():
    binary = BinaryCrossentropy()
    logits = np.array([[-1e4, 1e4, 0.0]], np.float32)
    for labels in ([[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]]):
        assert np.isfinite(float(binary(np.array(labels, np.float32), logits)))


@pytest.mark.parametrize("kind", ["cross-entropy", "binary-cross-entropy"])
def test_losses_refuse_class_numbers(kind):
    shown = loss(Recipe(loss=kind), 3)
    logits = np.zeros((4, 3), np.float32)
    numbers = np.arange(4) % 3
    for labels in (numbers, numbers[:, None], np.eye(4), numbers[:3]):
        with pytest.raises(ValueError, match=r"^labels: \([34].*must be one-hot"):
            shown(labels, logits[: len(labels)])
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(3)(inputs))
    model.compile("sgd", shown)
    with pytest.raises(ValueError, match=r"labels: \(.*must be one-hot"):
        model.fit(logits, np.arange(4) % 3, verbose=0)
    again = keras.losses.deserialize(keras.losses.serialize(shown))
    assert type(again) is type(shown)
    assert again.get_config() == shown.get_config()


def test_rate_scales_with_the_batch_and_warms_up_in_epochs():
    rate = schedule(RECIPES["efficient"], 1251)
    assert float(rate(0)) == 0
    assert float(rate(5 * 1251)) == pytest.approx(0.4)
    assert float(rate(30 * 1251)) == pytest.approx(0.04)


def test_lamb_recipes_have_the_published_numbers():
    for name, rate, decay in (
        ("a1", 5e-3, 0.01),
        ("a2", 5e-3, 0.02),
        ("a3", 8e-3, 0.02),
    ):
        recipe = RECIPES[f"rsb-{name}"]
        rule = optimizer(recipe, 625)
        assert isinstance(rule, Lamb)
        assert rule.get_config()["weight_decay"] == decay
        top = schedule(recipe, 625)
        assert float(top(5 * 625)) == pytest.approx(rate)
        assert float(top(recipe.epochs * 625)) == pytest.approx(1e-6, rel=1e-3)


def test_final_rate_above_the_first_is_refused():
    with pytest.raises(RecipeError, match=r"final_rate=1.0: must be at most 0.1"):
        schedule(Recipe(final_rate=1.0), 10)


def test_stage_rates_are_the_optimizers():
    recipe = Recipe(stage_rates=(0.0, 0.05, 0.1, 0.15, 1))
    rule = optimizer(recipe, 10)
    assert isinstance(rule, CoupledSGD)
    assert rule.get_config()["rates"] == {"stage1": 0.05, "stage2": 0.1, "stage3": 0.15}


@pytest.mark.parametrize(
    ("accuracies", "patience", "drops"),
    [
        ([], 2, 0),
        ([0.1, 0.2, 0.3], 2, 0),
        ([0.3, 0.2], 2, 0),
        ([0.3, 0.2, 0.3], 2, 1),  # as good is not better
        ([0.3, 0.2, 0.1, 0.4, 0.4, 0.4], 2, 2),
        ([0.3, 0.2, 0.1, 0.1, 0.1], 2, 2),
        ([0.3, 0.2, 0.1, 0.1], 1, 3),
    ],
)
def test_rate_drops_after_a_plateau(accuracies, patience, drops):
    assert plateau_drops(accuracies, patience) == drops
