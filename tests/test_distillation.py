"""Distillation is the published rule, step for step, and nobody's state is spoilt."""

import numpy as np
import pytest

import keras_resnet
from keras_resnet import data
from keras_resnet.backend import keras, ops
from keras_resnet.model import rebuild
from keras_resnet.optimizers import CoupledSGD, WarmupCosine
from keras_resnet.train.distillation import WEIGHTINGS, _resize, distill

TEMPERATURE = 5.0


def net(depths=(1, 1), classes=4, activation=None, seed=0, **options):
    keras.utils.set_random_seed(seed)
    model = keras_resnet.create(
        "resnet18d",
        width=8,
        depths=depths,
        classes=classes,
        classifier_activation=activation,
        zero_gamma=False,  # else a fresh net's blocks are their shortcuts
        **options,
    )
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_variance.assign(layer.moving_variance * 2.0)
    return model


def batches(count, size=32, classes=4):
    """Mixed pictures with mixed labels."""
    random = np.random.default_rng(0)
    for step in range(count):
        x = random.uniform(0, 255, (6, size, size, 3))
        y = np.eye(classes)[random.integers(classes, size=6)]
        x, y = data.mixup(x, y, 1.0, (0, step))
        yield x.numpy(), y.numpy()


@pytest.mark.addons
@pytest.mark.parametrize(
    "weighting",
    [
        "paper",
        pytest.param("gluon", marks=pytest.mark.slow),
        pytest.param((0.3, 0.9), marks=pytest.mark.slow),
    ],
)
def test_steps_are_those_of_a_loop_by_hand(weighting, float64):
    import tensorflow as tf

    hard, soft = WEIGHTINGS.get(weighting, weighting)
    teacher = net(depths=(2, 1), seed=1)
    student, by_hand = net(), net()
    model = distill(student, teacher, TEMPERATURE, weighting)
    model.compile(
        CoupledSGD(WarmupCosine(0.002, 2, 6), weight_decay=1e-3),
        keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1),
        jit_compile=False,
    )
    velocity = [np.zeros(v.shape) for v in by_hand.trainable_variables]
    for step, (x, y) in enumerate(batches(6)):
        rate = 0.002 * step / 2
        if step >= 2:
            rate = 0.002 * (1 + np.cos(np.pi * (step - 2) / 4)) / 2
        with tf.GradientTape() as tape:
            z, r = by_hand(x, training=True), teacher(x, training=False)
            labels = 0.9 * y + 0.1 / 4
            of_labels = -tf.reduce_mean(tf.reduce_sum(labels * tf.nn.log_softmax(z), 1))
            answers = tf.nn.softmax(r / TEMPERATURE)
            of_teacher = -tf.reduce_mean(
                tf.reduce_sum(answers * tf.nn.log_softmax(z / TEMPERATURE), 1)
            )
            loss = hard * of_labels + soft * TEMPERATURE**2 * of_teacher
        gradients = tape.gradient(loss, by_hand.trainable_variables)
        for i, (g, w) in enumerate(zip(gradients, by_hand.trainable_variables)):
            g = g.numpy() + (1e-3 * w.numpy() if len(w.shape) > 1 else 0)
            velocity[i] = 0.9 * velocity[i] + g
            w.assign(w.numpy() - rate * (g + 0.9 * velocity[i]))
        ours = model.train_on_batch(x, y)
        np.testing.assert_allclose(ours, float(loss), rtol=1e-10)
        model.reset_metrics()
    for ours, theirs in zip(student.weights, by_hand.weights):
        np.testing.assert_allclose(
            ours.numpy(), theirs.numpy(), rtol=1e-9, atol=1e-9, err_msg=ours.path
        )


def compiled(student, teacher, **options):
    model = distill(student, teacher, TEMPERATURE, **options)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(CoupledSGD(0.01), loss, metrics=["accuracy"], jit_compile=False)
    return model


@pytest.mark.slow
def test_batch_statistics_move_once_a_step_and_never_in_evaluate():
    teacher, student, alone = net(seed=1), net(), net()
    model = compiled(student, teacher)
    (x, y), before = next(batches(1)), [w.numpy() for w in teacher.weights]
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    alone.compile(CoupledSGD(0.01), loss, jit_compile=False)
    model.train_on_batch(x, y)
    alone.train_on_batch(x, y)
    for ours, theirs in zip(student.weights, alone.weights):
        if "moving" in ours.path:
            np.testing.assert_allclose(ours.numpy(), theirs.numpy(), 1e-5, 1e-6)
    after = [w.numpy() for w in student.weights]
    metrics = model.evaluate(x, y, verbose=0, return_dict=True)
    for weight, value in zip(student.weights, after):
        np.testing.assert_array_equal(weight.numpy(), value)
    for weight, value in zip(teacher.weights, before):
        np.testing.assert_array_equal(weight.numpy(), value)
    log_p = ops.log_softmax(student(x, training=False))
    expected = -float(ops.mean(ops.sum(y * log_p, -1)))  # no teacher in it
    assert metrics["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_penalties_of_the_student_count_in_full():
    teacher, student = net(seed=1), net()
    x, y = next(batches(1))
    plain = compiled(student, teacher, weighting="gluon").train_on_batch(x, y)[0]
    student = net()
    head = student.get_layer("head")
    head.kernel.regularizer = keras.regularizers.L2(0.01)
    penalty = 0.01 * float(ops.sum(head.kernel**2))
    with_penalty = compiled(student, teacher, weighting="gluon")
    assert with_penalty.train_on_batch(x, y)[0] == pytest.approx(
        plain + penalty, rel=1e-5
    )


@pytest.mark.slow
def test_weights_of_samples_weigh_both_losses():
    x, y = next(batches(1))
    weights = np.array([1, 0, 2, 0, 1, 0], np.float32)
    kept = np.repeat([0, 2, 4], [1, 2, 1])

    # the same batch statistics, of inference, so that samples stand alone
    def one(x, y, weights):
        student = net()
        for layer in student._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.frozen_statistics = True
        model = compiled(student, net(seed=1))
        return model.train_on_batch(x, y, weights)[0]

    weighted = one(x, y, weights)
    assert weighted * 6 / 4 == pytest.approx(one(x[kept], y[kept], None), rel=1e-5)


@pytest.mark.slow
def test_teacher_may_have_another_depth_size_and_dtype(policy):
    policy("mixed_bfloat16")
    student = net()
    policy("float32")
    teacher = net(depths=(2, 2), seed=1, input_shape=(48, 48, 3))
    model = compiled(student, teacher)
    x, y = next(batches(1))
    large = resized(x, (48, 48))
    np.testing.assert_allclose(
        model._answers(ops.convert_to_tensor(x), "float32"), teacher(large), 1e-4, 1e-4
    )
    assert np.isfinite(model.train_on_batch(x, y)[0])
    assert distill(student, net(seed=1), teacher_size=40).teacher_size == (40, 40)


def resized(x, size):
    """As TensorFlow's own operation does it."""
    import tensorflow as tf

    return tf.image.resize(x, size, "bilinear", antialias=True)


@pytest.mark.addons
@pytest.mark.parametrize("size", [(48, 48), (20, 20), (32, 17), (1, 64)])
def test_teacher_sees_the_pictures_of_the_antialiased_resize(size):
    x = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    np.testing.assert_allclose(_resize(x, size), resized(x, size), 1e-4, 1e-2)


def test_step_with_a_teacher_of_another_size_compiles_under_xla():
    def pooled(side):
        keras.utils.set_random_seed(side)
        layers = keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)
        return keras.Sequential([keras.Input((side, side, 3)), *layers])

    x = np.random.default_rng(0).uniform(0, 1, (6, 32, 32, 3)).astype(np.float32)
    y = np.eye(3, dtype=np.float32)[np.arange(6) % 3]
    losses = []
    for jit in (True, False):
        model = distill(pooled(32), pooled(20), TEMPERATURE)
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)
        model.compile(CoupledSGD(0.01), loss, jit_compile=jit)
        losses.append([float(model.train_on_batch(x, y)) for _ in range(3)])
    assert losses[0][0] > losses[0][-1]
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.slow
def test_only_the_student_is_saved(tmp_path):
    student, teacher = net(), net(depths=(2, 2), seed=1)
    model = compiled(student, teacher)
    model.train_on_batch(*next(batches(1)))
    model.save(tmp_path / "student.keras")
    again = keras.models.load_model(tmp_path / "student.keras")
    assert again.count_params() == student.count_params()
    x = next(batches(1))[0]
    np.testing.assert_array_equal(again(x), student(x))
    model.save_weights(tmp_path / "student.weights.h5")
    fresh = net(seed=7)
    fresh.load_weights(tmp_path / "student.weights.h5")
    np.testing.assert_array_equal(fresh(x), student(x))


@pytest.mark.slow
def test_loss_is_scaled_for_a_half_precision_student_behind_the_wrapper(policy):
    policy("mixed_float16")
    student = net()
    policy("float32")
    model = compiled(student, net(seed=1))
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert np.isfinite(model.train_on_batch(*next(batches(1)))[0])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: distill(net(), net(), 0.0), "temperature=0.0: must be above 0"),
        (lambda: distill(net(), net(classes=5)), "has 5 classes, but the student"),
        (
            lambda: distill(net(), net(activation="softmax")),
            "teacher: .* ends in a softmax.*classifier_activation=None",
        ),
        (
            lambda: distill(net(activation="softmax"), net()),
            "student: .* ends in a softmax",
        ),
        (
            lambda: distill(
                net(), keras.Sequential([net(), keras.layers.Activation("softmax")])
            ),
            "teacher: .* ends in a softmax",
        ),
        (lambda: distill(net(), net(), weighting="mine"), "weighting='mine'.*paper"),
        (lambda: distill(net(), net(), weighting=(1, -1)), r"weighting=\(1, -1\)"),
        (
            lambda: distill(net(), net(include_preprocessing=False)),
            "include_preprocessing: is False for the teacher and True for",
        ),
        (
            lambda: distill(net(), net(input_shape=(48, 48, 3)), teacher_size=32),
            r"teacher_size=32: .* takes only \(48, 48\)",
        ),
        (lambda: distill(net(), net(), ema=1.0), "ema=1.0: must be in"),
    ],
)
def test_what_cannot_be_distilled_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_nets_of_other_inputs_distil_too():
    def dense(units):
        return keras.Sequential([keras.Input((8,)), keras.layers.Dense(units)])

    x = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    y = np.eye(3, dtype=np.float32)[np.arange(6) % 3]
    student, teacher = dense(3), dense(3)
    z, r = student(x), teacher(x)
    expected = -ops.mean(ops.sum(y * ops.log_softmax(z), -1)) - 25 * ops.mean(
        ops.sum(ops.softmax(r / 5) * ops.log_softmax(z / 5), -1)
    )
    loss = compiled(student, teacher).train_on_batch(x, y)[0]
    assert loss == pytest.approx(float(expected), rel=1e-5)

    class Loose(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(ValueError, match=r"teacher: .* has no fixed graph; wrap it"):
        distill(student, Loose())


def test_teacher_of_our_own_loses_its_softmax_by_rebuild():
    student, teacher = net(), net(activation="softmax", seed=1)
    model = distill(student, rebuild(teacher, classifier_activation=None))
    assert model.net is student
