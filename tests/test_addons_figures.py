"""What TensorFlow Addons answered, beside what takes its place here or in Keras.

The figures are those of docs/reference/migration.md. A rule is replayed on 20 recorded
gradients in float64; "apart" is the distance of the two ends over the way that Addons'
rule went.
"""

import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from checkpoints import GOLDENS
from keras import ops
from keras.optimizers import SGD, Adam, AdamW
from sklearn.metrics import cohen_kappa_score

from keras_resnet.data.transforms.affine import FILL
from keras_resnet.data.transforms.colour import distort
from keras_resnet.data.transforms.randaugment import OPERATIONS
from keras_resnet.evaluate.measures import Tally
from keras_resnet.optimizers import CoupledSGD, Lamb
from keras_resnet.train.trainable import Trainable

ADDONS = GOLDENS / "addons"
SETTINGS = json.loads((ADDONS / "settings.json").read_text())
RULES = SETTINGS["rules"]
RATE, MOMENTUM = SETTINGS["inner"]["rate"], SETTINGS["inner"]["momentum"]
ADAM = {name: RULES["lamb"][name] for name in ("beta_1", "beta_2", "epsilon")}
DECAY = RULES["lamb"]["weight_decay"]  # times the rate
assert RULES["sgdw"]["weight_decay"] == RULES["adamw"]["weight_decay"] == RATE * DECAY


def recorded(name):
    with np.load(ADDONS / f"{name}.npz") as arrays:
        return dict(arrays)


STEPS = recorded("optimizers")
PICTURES = recorded("pictures")
MEASURES = recorded("measures")
LAYERS = recorded("layers")


def split(row):
    shapes = SETTINGS["shapes"].values()
    ends = np.cumsum([np.prod(shape) for shape in shapes])[:-1]
    return [part.reshape(shape) for part, shape in zip(np.split(row, ends), shapes)]


def row(variables):
    return np.concatenate([ops.convert_to_numpy(v).ravel() for v in variables])


def replayed(rule, name, before=None, after=None):
    """All variables after each step of a rule, at the rates that `name` had."""
    variables = [
        keras.Variable(value, name=tensor)
        for tensor, value in zip(SETTINGS["shapes"], split(STEPS["start"]))
    ]
    rule.build(variables)
    rows = []
    for step, rate in enumerate(STEPS[f"{name}.rates"]):
        rule.learning_rate = rate
        if before:
            before(rule, step)
        gradients = split(STEPS["gradients"][step])
        rule.apply([ops.convert_to_tensor(g) for g in gradients], variables)
        if after:
            after(variables, step)
        rows.append(row(variables))
    rule.finalize_variable_values(variables)
    return np.stack([*rows, row(variables)])  # the last: as Keras's average leaves them


def assert_same(rule, name, **hooks):
    steps = replayed(rule, name, **hooks)[:-1]
    np.testing.assert_allclose(steps, STEPS[name], rtol=0, atol=1e-13)


def apart(rule, name):
    end, way = STEPS[name][-1], STEPS[name][-1] - STEPS["start"]
    distance = np.linalg.norm(replayed(rule, name)[-1] - end)
    return pytest.approx(distance / np.linalg.norm(way), rel=5e-3)


def without_bias(rule):
    rule.exclude_from_weight_decay(var_names=["bias"])
    return rule


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lamb", {"weight_decay": DECAY, "decay": "all", "global_clipnorm": None}),
        ("lamb_kernels", {"weight_decay": DECAY, "global_clipnorm": None}),
        ("lamb_clipped", {"weight_decay": DECAY}),
        # a decay of nothing, as 0 switches the trust ratio off
        (
            "lamb_plain",
            {"weight_decay": 1e-30, "decay": "all", "global_clipnorm": None},
        ),
    ],
)
def test_our_lamb_is_addons_step_for_step(name, options, float64):
    assert_same(Lamb(RATE, **ADAM, **options), name)


def test_our_lamb_differs_from_addons_defaults_by_clipping_and_without_decay(float64):
    clipped = Lamb(RATE, **ADAM, weight_decay=DECAY)
    assert apart(clipped, "lamb_kernels") == 0.414
    still = Lamb(RATE, **ADAM, decay="all", global_clipnorm=None)
    assert apart(still, "lamb_plain") == 0.550


def test_keras_lamb_is_addons_without_decay_and_another_rule_with_it(float64):
    assert_same(keras.optimizers.Lamb(RATE, **ADAM), "lamb_plain")
    decayed = keras.optimizers.Lamb(RATE, **ADAM, weight_decay=DECAY)
    assert apart(decayed, "lamb") == 0.104
    decayed = keras.optimizers.Lamb(RATE, **ADAM, weight_decay=DECAY)
    assert apart(without_bias(decayed), "lamb_kernels") == 0.207


@pytest.mark.parametrize("name", ["sgdw", "sgdw_nesterov"])
def test_keras_sgd_is_sgdw_if_its_decay_is_over_the_rate(name, float64):
    def rule():
        return SGD(RATE, MOMENTUM, name == "sgdw_nesterov", weight_decay=DECAY)

    assert_same(rule(), name)
    assert_same(rule(), f"{name}_scheduled")
    # SGDW's decay stays while the rate falls by 59 %; Keras's falls with it
    figure = {"sgdw": 0.0197, "sgdw_nesterov": 0.0205}[name]
    assert apart(rule(), f"{name}_falling") == figure

    def undo(rule, step):
        rule.weight_decay = RATE * DECAY / STEPS[f"{name}_falling.rates"][step]

    assert_same(rule(), f"{name}_falling", before=undo)


def test_our_sgd_is_sgdw_without_momentum(float64):
    rule = CoupledSGD(RATE, 0.0, nesterov=False, weight_decay=DECAY, decay="all")
    assert_same(rule, "sgdw_still")


@pytest.mark.parametrize(
    ("name", "converted", "same", "none", "falling"),
    [
        ("sgdw", 0.0208, 0.250, 0.0606, 0.165),
        ("sgdw_nesterov", 0.0204, 0.301, 0.0678, 0.148),
    ],
)
def test_our_sgd_comes_near_sgdw_by_one_minus_momentum(
    name, converted, same, none, falling, float64
):
    def rule(decay):
        nesterov = name == "sgdw_nesterov"
        return CoupledSGD(RATE, MOMENTUM, nesterov, weight_decay=decay, decay="all")

    right = DECAY * (1 - MOMENTUM)
    assert apart(rule(right), name) == converted
    assert apart(rule(DECAY), name) == same
    assert apart(rule(0.0), name) == none
    # our rate is outside of the velocity
    assert apart(rule(right), f"{name}_scheduled") == falling


def test_keras_adamw_is_addons_if_its_decay_is_over_the_rate(float64):
    assert_same(AdamW(RATE, **ADAM, weight_decay=DECAY), "adamw")
    assert_same(AdamW(RATE, **ADAM, weight_decay=DECAY), "adamw_scheduled")
    assert apart(AdamW(RATE, **ADAM, weight_decay=RATE * DECAY), "adamw") == 0.0704


def test_keras_adam_is_lazy_adam_on_dense_gradients(float64):
    assert_same(Adam(RATE, **ADAM), "lazy_adam")


def test_rectified_adam_is_keras_adam_at_another_rate_from_step_6_on(float64):
    beta_1, beta_2 = ADAM["beta_1"], ADAM["beta_2"]
    most = 2 / (1 - beta_2) - 1

    def length(t):
        return most - 2 * t * beta_2**t / (1 - beta_2**t)

    def rectify(rule, step):
        n, t = length(step + 1), step + 1
        share = (n - 4) * (n - 2) * most / ((most - 4) * (most - 2) * n)
        rule.learning_rate = RATE * math.sqrt(share) if n >= 5 else 0
        rule.epsilon = ADAM["epsilon"] * math.sqrt(1 - beta_2**t)  # RectifiedAdam's

    assert [t for t in range(1, 21) if length(t) < 5] == [1, 2, 3, 4, 5]
    ours = replayed(Adam(RATE, **ADAM), "radam", before=rectify)[:-1]
    theirs = np.diff(np.stack([STEPS["start"], *STEPS["radam"]]), axis=0)
    np.testing.assert_allclose(np.diff(ours[4:], axis=0), theirs[5:], atol=1e-13)
    moment = 0.0
    for t in range(1, 6):  # nothing is divided by the second moment
        moment = beta_1 * moment + (1 - beta_1) * STEPS["gradients"][t - 1]
        step = -RATE * moment / (1 - beta_1**t)
        np.testing.assert_allclose(theirs[t - 1], step, atol=1e-13)


@pytest.mark.parametrize(
    ("name", "figure"),
    [("radam", 3.88), ("novograd", 0.549), ("yogi", 0.279), ("adabelief", 0.158)],
)
def test_rules_that_keras_lacks_are_this_far_from_its_adam(name, figure, float64):
    rule = AdamW(RATE, **ADAM, weight_decay=RULES[name].get("weight_decay", 0.0))
    assert apart(rule, name) == figure


def test_lookahead_is_keras_sgd_and_three_lines(float64):
    slow = split(STEPS["start"].copy())
    period, share = (RULES["lookahead"][n] for n in ("sync_period", "slow_step_size"))

    def look(variables, step):
        if (step + 1) % period == 0:
            for place, variable in enumerate(variables):
                slow[place] += share * (ops.convert_to_numpy(variable) - slow[place])
                variable.assign(slow[place])

    assert_same(SGD(RATE, MOMENTUM), "lookahead", after=look)


def test_swa_is_the_mean_of_the_weights_of_every_period(float64):
    start, period = (RULES["swa"][n] for n in ("start_averaging", "average_period"))
    weights = replayed(SGD(RATE, MOMENTUM), "swa")[:-1]
    mean = weights[start::period].mean(0)
    # Addons cannot in float64
    assert STEPS["swa.average"].dtype == np.float32
    np.testing.assert_allclose(STEPS["swa.average"][-1], mean, rtol=0, atol=1e-6)


def averaged(decay):
    """Our moving average after each step, of weights that go Addons' way."""
    inputs = keras.Input((39,))
    net = keras.Model(inputs, keras.layers.Dense(1, use_bias=False)(inputs))
    net.set_weights([STEPS["start"][:, None]])
    trainable = Trainable(net, ema=decay)
    trainable.compile(
        SGD(RATE, MOMENTUM), lambda labels, outputs: outputs, jit_compile=False
    )
    averages = []
    for gradient in STEPS["gradients"]:  # of outputs = inputs * kernel: the inputs
        trainable.train_on_batch(gradient[None], np.zeros((1, 1)))
        averages.append(ops.convert_to_numpy(trainable.averages[0])[:, 0])
    weights = net.get_weights()[0][:, 0]
    np.testing.assert_allclose(weights, STEPS["average"][-1], rtol=0, atol=1e-13)
    return np.stack(averages)


def test_sgdw_within_an_average_of_addons_decays_what_it_excludes(float64):
    # the bias too: what a wrapper calls does not know of `exclude_from_weight_decay`
    assert_same(SGD(RATE, MOMENTUM, weight_decay=DECAY), "average_sgdw")


def test_our_average_is_addons_with_dynamic_decay(float64):
    ours = averaged(RULES["average_dynamic"]["average_decay"])
    # either takes its decay from float32
    np.testing.assert_allclose(
        ours, STEPS["average_dynamic.average"], rtol=0, atol=1e-8
    )


def test_our_average_forgets_the_start_that_addons_keeps_by_default(float64):
    decay, t = RULES["average"]["average_decay"], np.arange(20)
    assert decay**20 == pytest.approx(0.730, abs=5e-4)  # what is left of the start
    assert np.prod((1 + t) / (10 + t)) == pytest.approx(1.0e-7, rel=5e-3)
    distance = np.linalg.norm(averaged(decay)[-1] - STEPS["average.average"][-1])
    way = np.linalg.norm(STEPS["average"][-1] - STEPS["start"])
    assert distance / way == pytest.approx(0.802, rel=5e-3)


def test_keras_average_is_addons_from_the_first_step_on(float64):
    decay = RULES["average"]["average_decay"]
    rule = SGD(RATE, MOMENTUM, use_ema=True, ema_momentum=decay)
    ours = replayed(rule, "average")[-1]
    theirs = STEPS["average_from_1.average"][-1]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-13)
    # by default Addons averages the start as well
    start, first = STEPS["start"], STEPS["average"][0]
    expected = ours + decay ** len(STEPS["average"]) * (start - first)
    np.testing.assert_allclose(
        STEPS["average.average"][-1], expected, rtol=0, atol=1e-13
    )


def distorted(picture, tiny):
    """Our colour map at Addons' factors: hue 1 + angle / pi, the others as they are."""
    factors = PICTURES["yiq.factors"].copy()
    factors[:, 0] = 1 + factors[:, 0] / np.pi
    draws = np.full((len(factors), 7), 0.5, np.float32)
    draws[:, :3] = (1 + (factors - 1) / 0.4) / 2
    assert (draws >= 0).all()
    assert (draws < 1).all()
    recipe = tiny.replace(colour=0.4, lighting=0.0, flip=0.0)
    images = np.repeat(picture[None], len(factors), 0)
    return distort(tf.constant(images), draws, recipe).numpy().astype(float)


def test_colour_is_addons_map_rounded_and_clipped_but_for_its_matrix(tiny):
    theirs = PICTURES["yiq.float64"]
    rounded = np.floor(np.clip(theirs, 0, 255) + 0.5)
    difference = np.abs(distorted(PICTURES["picture"][::2, ::2], tiny) - rounded)
    assert difference.max() == 1
    assert difference.mean() == pytest.approx(0.047, abs=0.001)
    still = PICTURES["yiq.factors"][:, :2] == [0, 1]  # brightness alone
    assert difference[still.all(1)].max() == 0


def test_colour_of_addons_on_bytes_is_one_lower_as_it_truncates(tiny):
    difference = distorted(PICTURES["picture"], tiny) - PICTURES["yiq.uint8"]
    assert np.abs(difference).max() == 1
    assert (difference == 1).mean() == pytest.approx(0.195, abs=0.001)
    assert (difference == -1).mean() == pytest.approx(0.0017, abs=0.0005)


def test_brightened_white_stays_white_where_addons_made_some_of_it_dark(tiny):
    # of 75 values 64 are clipped; the others are 319 - 256
    assert (PICTURES["yiq.white"] == 255).sum() == 64
    assert (PICTURES["yiq.white"] == 63).sum() == 11
    recipe = tiny.replace(colour=0.4, lighting=0.0, flip=0.0)
    draws = np.full((1, 7), 0.5, np.float32)
    draws[:, 2] = (1 + 0.25 / 0.4) / 2
    white = tf.constant(np.full((1, 2, 2, 3), 255, np.uint8))
    np.testing.assert_array_equal(distort(white, draws, recipe), 255)


def operated(name, level, sign=1):
    level, sign = (tf.constant(x, tf.float64) for x in (level, sign))
    picture = tf.constant(PICTURES["picture"])
    return OPERATIONS[name](picture, level, sign).numpy().astype(int)


def test_equalize_is_addons():
    np.testing.assert_array_equal(operated("Equalize", 5), PICTURES["equalize"])


@pytest.mark.parametrize(("sign", "share"), [(1, 0.580), (-1, 0.236)])
def test_sharpness_is_addons_but_for_rounding(sign, share):
    theirs = PICTURES[f"sharpness.{1 + 0.45 * sign}"]
    difference = np.abs(operated("SharpnessIncreasing", 5, sign) - theirs)
    assert difference.max() == 1
    assert difference.mean() == pytest.approx(share, abs=0.001)


@pytest.mark.parametrize(("degrees", "share"), [(15, 0.0021), (-30, 0.0026)])
def test_rotation_is_addons_within_the_picture(degrees, share):
    ours = operated("Rotate", abs(degrees) / 3, np.sign(degrees))
    y, x = np.mgrid[:32, :32] - 15.5
    inside = np.hypot(y, x) < 14.5
    difference = np.abs(ours - PICTURES[f"rotate.{degrees}"])[inside]
    assert difference.max() == 1
    assert difference.mean() == pytest.approx(share, abs=0.0001)


@pytest.mark.parametrize(("move", "share"), [(7.2, 0.0499), (-14.4, 0.0306)])
def test_translation_is_addons_within_the_picture_and_filled_otherwise(move, share):
    ours = operated("TranslateXRel", abs(move) / 1.44, np.sign(move))
    theirs = PICTURES[f"translate.{move}"]
    source = np.arange(32) + move
    inside = (source >= 0) & (source <= 31)
    difference = np.abs(ours - theirs)[:, inside]
    assert difference.max() == 1
    assert difference.mean() == pytest.approx(share, abs=0.0001)
    outside = (source < -1) | (source > 32)
    np.testing.assert_array_equal(
        ours[:, outside], np.tile(FILL, (32, sum(outside), 1))
    )
    np.testing.assert_array_equal(theirs[:, outside], 0)


def labels(kind):
    one_hot = np.eye(5)[MEASURES["truth"]]
    return 0.75 * one_hot + 0.25 * one_hot[::-1] if kind == "mixed" else one_hot


@pytest.mark.parametrize("kind", ["one_hot", "mixed"])
def test_focal_loss_is_keras_binary_one_times_the_classes(kind, float64):
    def losses(outputs, **options):
        loss = keras.losses.BinaryFocalCrossentropy(
            apply_class_balancing=True, reduction=None, **options
        )
        return 5 * ops.convert_to_numpy(loss(labels(kind), MEASURES[outputs]))

    ours = losses("logits", from_logits=True)
    np.testing.assert_allclose(ours, MEASURES[f"focal.logits.{kind}"], rtol=1e-13)
    # the first is of probabilities below Keras's epsilon, 1e-7
    difference = np.abs(losses("probabilities") / MEASURES[f"focal.{kind}"] - 1)
    assert difference[0] == pytest.approx(0.0415, abs=0.001)
    assert difference[1:].max() < 2e-5


def test_focal_loss_is_not_keras_categorical_one(float64):
    loss = keras.losses.CategoricalFocalCrossentropy(reduction=None)
    ours = ops.convert_to_numpy(loss(labels("one_hot"), MEASURES["probabilities"]))
    assert ours[1:].mean() == pytest.approx(0.375, abs=0.001)
    assert MEASURES["focal.one_hot"][1:].mean() == pytest.approx(0.753, abs=0.001)


@pytest.mark.parametrize("average", ["micro", "macro", "weighted"])
@pytest.mark.parametrize("threshold", [None, 0.25])
def test_f1_score_is_keras(average, threshold, float64):
    metric = keras.metrics.F1Score(average, threshold)
    metric.update_state(labels("one_hot"), MEASURES["probabilities"])
    theirs = MEASURES[f"f1.{average}.{threshold}"]  # float32
    np.testing.assert_allclose(float(metric.result()), theirs, rtol=0, atol=2e-7)


@pytest.mark.parametrize(
    ("weights", "power"), [(None, 0), ("linear", 1), ("quadratic", 2)]
)
def test_kappa_is_scikit_learns_and_that_of_our_confusion(weights, power):
    truth, chances = MEASURES["truth"], MEASURES["probabilities"]
    theirs = MEASURES[f"kappa.{weights}"]  # float32
    kappa = cohen_kappa_score(truth, chances.argmax(1), weights=weights)
    np.testing.assert_allclose(kappa, theirs, rtol=0, atol=1e-7)
    tally = Tally(5)
    tally.add(chances, truth)
    seen = np.array(tally.result("abcde")["confusion"]) / len(truth)
    by_chance = np.outer(seen.sum(1), seen.sum(0))
    i, j = np.indices(seen.shape)
    cost = np.abs(i - j) ** power * (i != j)
    ours = 1 - (cost * seen).sum() / (cost * by_chance).sum()
    np.testing.assert_allclose(ours, kappa, rtol=1e-13)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("group_normalization", lambda: keras.layers.GroupNormalization(4)),
        ("instance_normalization", lambda: keras.layers.GroupNormalization(-1)),
        ("adaptive_pooling", lambda: keras.layers.AdaptiveAveragePooling2D(3)),
    ],
)
def test_layers_of_keras_give_addons_outputs(name, layer, float64):
    ours = ops.convert_to_numpy(layer()(LAYERS["x"]))
    np.testing.assert_allclose(ours, LAYERS[name], rtol=0, atol=1e-13)


def test_stochastic_depth_of_addons_scales_when_it_serves_and_ours_in_training():
    x, residual = LAYERS["x"], LAYERS["residual"]
    np.testing.assert_allclose(LAYERS["stochastic_depth"], x + 0.75 * residual)
    ours = keras.layers.Dropout(0.25, noise_shape=(None, 1, 1, 1), seed=0)
    ones = np.ones((64, 2, 2, 3), np.float32)
    np.testing.assert_array_equal(ours(ones, training=False), ones)
    pictures = ops.convert_to_numpy(ours(ones, training=True)).reshape(64, -1)
    kept = pictures[:, 0] > 0
    assert 0 < kept.sum() < 64  # a draw a picture; Addons: one a batch
    np.testing.assert_allclose(pictures[kept], 1 / 0.75, rtol=1e-6)
    np.testing.assert_array_equal(pictures[~kept], 0)
