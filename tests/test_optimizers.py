"""The update rule and schedules are those of the published recipes, step for step."""

import json

import keras
import numpy as np
import pytest
from checkpoints import GOLDENS, checkpoint, image, labels, tensor
from keras import ops

import keras_resnet
from keras_resnet.optimizers import CoupledSGD, WarmupCosine, WarmupSteps


@pytest.fixture
def float64(policy):
    keras.config.set_floatx("float64")
    policy("float64")
    yield
    keras.config.set_floatx("float32")


def replayed(trace):
    """The losses, rates, gradient norms and final weights of our run of a trace."""
    import tensorflow as tf

    args = trace["args"]
    model = keras_resnet.create(
        args["model"],
        classes=args["classes"],
        include_preprocessing=False,
        classifier_activation=None,
    )
    values = checkpoint(f"timm/{args['model']}")
    channels = values.pop("fc.weight").shape[1]
    del values["fc.bias"]
    values["fc.weight"] = tensor("fc.weight", (args["classes"], channels), "fc")
    values["fc.bias"] = tensor("fc.bias", (args["classes"],), "bias")
    keras_resnet.load_weights(model, values)
    optimizer = CoupledSGD(
        WarmupCosine(args["base_lr"], args["warmup_steps"], args["steps"]),
        momentum=args["momentum"],
        nesterov=args["nesterov"],
        weight_decay=args["weight_decay"],
        decay="all" if args["decay_all"] else "kernels",
    )
    smoothing = args["label_smoothing"]
    history = {"loss": [], "lr": [], "grad_norm": []}
    for step in range(args["steps"]):
        x = image(args["size"], args["batch"], seed=step).astype(np.float64)
        y = np.eye(args["classes"])[labels(step, args["batch"], args["classes"])]
        y = (1 - smoothing) * y + smoothing / args["classes"]
        if args["mixup_lambda"]:
            weight = args["mixup_lambda"][step]
            x = weight * x + (1 - weight) * x[::-1]
            y = weight * y + (1 - weight) * y[::-1]
        with tf.GradientTape() as tape:
            logits = model(x, training=True)
            loss = -ops.mean(ops.sum(y * ops.log_softmax(logits), -1))
        gradients = tape.gradient(loss, model.trainable_variables)
        history["loss"].append(float(loss))
        history["lr"].append(float(optimizer.learning_rate))
        history["grad_norm"].append(float(tf.linalg.global_norm(gradients)))
        optimizer.apply(gradients, model.trainable_variables)
    return history, model


@pytest.mark.parametrize("name", ["trace_resnet18d", "trace_resnet26d_mixup"])
def test_training_steps_are_those_of_torch(name, float64):
    trace = json.loads((GOLDENS / "traces" / f"{name}.json").read_text())
    history, model = replayed(trace)
    for key, values in history.items():
        np.testing.assert_allclose(values, trace[key], rtol=1e-7, err_msg=key)
    ours = {
        "conv1.0.weight": model.get_layer("stem").conv1.conv.kernel,
        "bn1.weight": model.get_layer("stem").conv3.norm.gamma,
        "layer1.0.conv1.weight": model.get_layer("stage1_block0").conv1.conv.kernel,
        "layer4.1.bn1.bias": model.get_layer("stage4_block1").conv1.norm.beta,
        "fc.weight": model.get_layer("head").kernel,
        "fc.bias": model.get_layer("head").bias,
        "layer2.0.downsample.1.weight": model.get_layer(
            "stage2_block0"
        ).shortcut.projection.conv.kernel,
    }
    assert ours.keys() == trace["final"].keys()
    for tensor_name, (magnitude, total) in trace["final"].items():
        value = ops.convert_to_numpy(ours[tensor_name])
        np.testing.assert_allclose(np.abs(value).sum(), magnitude, rtol=1e-7)
        np.testing.assert_allclose(value.sum(), total, rtol=1e-7)


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("decay", ["kernels", "all"])
def test_rule_is_the_documented_one(nesterov, decay):
    kernel = keras.Variable(np.full((2, 3), 2.0, np.float32))
    bias = keras.Variable(np.full(3, 2.0, np.float32))
    optimizer = CoupledSGD(0.1, 0.9, nesterov, weight_decay=0.5, decay=decay)
    expected = {id(kernel): (2.0, 0.0), id(bias): (2.0, 0.0)}
    for gradient in (1.0, -3.0, 0.5):
        optimizer.apply(
            [ops.full((2, 3), gradient), ops.full((3,), gradient)], [kernel, bias]
        )
        for variable in (kernel, bias):
            w, v = expected[id(variable)]
            decayed = decay == "all" or variable is kernel
            g = gradient + 0.5 * w * decayed
            v = 0.9 * v + g
            w -= 0.1 * (g + 0.9 * v if nesterov else v)
            expected[id(variable)] = (w, v)
            np.testing.assert_allclose(
                ops.convert_to_numpy(variable), w, rtol=1e-6, atol=1e-6
            )


def test_decay_is_not_applied_a_second_time_by_keras():
    variable = keras.Variable(np.ones((2, 2), np.float32))
    optimizer = CoupledSGD(1.0, 0.0, nesterov=False, weight_decay=0.25)
    optimizer.apply([ops.zeros((2, 2))], [variable])
    np.testing.assert_array_equal(ops.convert_to_numpy(variable), 0.75)


def test_saved_optimizer_decays_the_same_variables(tmp_path):
    def compiled():
        inputs = keras.Input((4,))
        outputs = keras.layers.Dense(3)(keras.layers.BatchNormalization()(inputs))
        model = keras.Model(inputs, outputs)
        schedule = WarmupSteps(0.5, 3, [10, 20], factor=0.5)
        model.compile(CoupledSGD(schedule, weight_decay=0.1, decay="all"), "mse")
        return model

    model = compiled()
    x, y = np.random.default_rng(0).normal(size=(2, 8, 4)).astype(np.float32)
    model.fit(x, y[:, :3], epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.optimizer.get_config() == model.optimizer.get_config()
    for ours, theirs in zip(again.optimizer.variables, model.optimizer.variables):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    for either in (model, again):
        either.fit(x, y[:, :3], epochs=1, shuffle=False, verbose=0)
    for ours, theirs in zip(again.variables, model.variables):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_warmup_cosine_rises_from_zero_and_ends_at_the_final_rate():
    schedule = WarmupCosine(0.4, warmup_steps=5, total_steps=25, final_rate=0.1)
    rates = [float(schedule(step)) for step in (0, 1, 5, 15, 25, 30)]
    np.testing.assert_allclose(rates, [0, 0.08, 0.4, 0.25, 0.1, 0.1], rtol=1e-6)


def test_gluon_rate_is_the_schedule_at_the_printed_iterations():
    # GluonCV's resnet50_v1d: 1251 iterations an epoch, 5 of warm-up, 120 in all
    n = 1251
    schedule = WarmupCosine(0.4, 5 * n, 120 * n)
    for t in (2 * n, 5 * n, 60 * n + 600, 119 * n):
        expected = (
            0.4 * t / (5 * n)
            if t < 5 * n
            else 0.2 * (1 + np.cos(np.pi * (t - 5 * n) / (115 * n)))
        )
        np.testing.assert_allclose(float(schedule(t)), expected, rtol=2e-5)


def test_warmup_steps_divides_at_each_boundary():
    schedule = WarmupSteps(0.1, warmup_steps=2, boundaries=[10, 20])
    rates = [float(schedule(step)) for step in (0, 1, 2, 9, 10, 19, 20, 99)]
    expected = [0, 0.05, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    np.testing.assert_allclose(rates, expected, rtol=1e-5)


def test_schedule_without_warmup_starts_at_the_base_rate():
    assert float(WarmupCosine(0.1, 0, 10)(0)) == pytest.approx(0.1)
    assert float(WarmupSteps(0.1, 0, [])(0)) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: CoupledSGD(momentum=1.0), r"momentum=1.0"),
        (lambda: CoupledSGD(weight_decay=-1), r"weight_decay=-1"),
        (lambda: CoupledSGD(decay="most"), r"decay='most'.*kernels.*all"),
        (lambda: WarmupCosine(0.1, 5, 5), r"total_steps=5.*warmup_steps=5"),
        (lambda: WarmupCosine(0.1, -1, 5), r"warmup_steps=-1"),
        (lambda: WarmupSteps(0.1, 0, [20, 10]), r"boundaries=\[20, 10\]"),
    ],
)
def test_bad_arguments_are_named(build, words):
    with pytest.raises(ValueError, match=words):
        build()
