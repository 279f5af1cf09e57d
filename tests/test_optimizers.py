"""The update rule and schedules are those of the published recipes, step for step."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from checkpoints import GOLDENS, checkpoint, image, labels, tensor

import keras_resnet
from keras_resnet.backend import keras, ops
from keras_resnet.optimizers import (
    AdamW,
    CoupledSGD,
    Lamb,
    LossScale,
    WarmupCosine,
    WarmupSteps,
)
from keras_resnet.recipe import Recipe
from keras_resnet.recipes import RECIPES
from keras_resnet.train import objective
from keras_resnet.train.trainable import Trainable


class Recorded(CoupledSGD):
    """Remembers the norm of the last gradients that it was given."""

    def build(self, variables):
        super().build(variables)
        self.norm = self.add_variable((), name="norm")

    def apply(self, gradients, variables=None):
        squares = [ops.sum(ops.square(gradient)) for gradient in gradients]
        self.norm.assign(ops.sqrt(sum(squares)))
        super().apply(gradients, variables)


def replayed(trace):
    """The losses, rates, gradient norms and the net of our run of a trace, in `fit`."""
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

    def batches():
        for step in range(args["steps"]):
            x = image(args["size"], args["batch"], seed=step).astype(np.float64)
            y = np.eye(args["classes"])[labels(step, args["batch"], args["classes"])]
            if args["mixup_lambda"]:
                weight = args["mixup_lambda"][step]
                x = weight * x + (1 - weight) * x[::-1]
                y = weight * y + (1 - weight) * y[::-1]
            yield x, y

    x, y = next(batches())
    specs = [tf.TensorSpec(part.shape, tf.float64) for part in (x, y)]
    recipe = Recipe(
        batch_size=args["batch"],
        base_rate=args["base_lr"] * 256 / args["batch"],
        epochs=args["steps"],  # of one step each
        warmup_epochs=args["warmup_steps"],
        momentum=args["momentum"],
        nesterov=args["nesterov"],
        weight_decay=args["weight_decay"],
        decay="all" if args["decay_all"] else "kernels",
        label_smoothing=args["label_smoothing"],
    )
    rule = objective.optimizer(recipe, steps_per_epoch=1)
    trainable = Trainable(model)
    trainable.compile(
        Recorded.from_config(rule.get_config()),
        objective.loss(recipe, args["classes"]),
        jit_compile=False,
    )
    history = {"loss": [], "lr": [], "grad_norm": []}

    def begun(step, logs):
        history["lr"].append(float(trainable.optimizer.learning_rate))

    def ended(step, logs):  # an epoch: its loss is that of its step
        history["loss"].append(float(logs["loss"]))
        history["grad_norm"].append(float(trainable.optimizer.norm))

    trainable.optimizer.build(trainable.trainable_variables)
    trainable.fit(
        tf.data.Dataset.from_generator(batches, output_signature=tuple(specs)),
        epochs=args["steps"],
        steps_per_epoch=1,
        callbacks=[
            keras.callbacks.LambdaCallback(on_epoch_begin=begun, on_epoch_end=ended)
        ],
        shuffle=False,
        verbose=0,
    )
    return history, model


@pytest.mark.slow
@pytest.mark.addons
@pytest.mark.parametrize(
    "name",
    ["trace_resnet18d", "trace_resnet26d_mixup"],
)
def test_training_in_fit_is_torchs_step_for_step(name, float64):
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


def wave(shape, place, step):
    i = np.arange(np.prod(shape), dtype=np.float64)
    return np.sin(0.7 * i + 1.3 * place + 0.9 * step + 0.1).reshape(shape)


def test_adamw_is_the_formula_of_torch_step_for_step(float64):
    shapes = {"kernel": (3, 4), "bias": (4,)}
    weights = {name: 0.3 * wave(it, 0, -1) for name, it in shapes.items()}
    variables = [keras.Variable(value, name=name) for name, value in weights.items()]
    rule = AdamW(0.01, beta_1=0.6, beta_2=0.995, weight_decay=0.06)
    first, second = (dict.fromkeys(shapes, 0.0) for _ in range(2))
    for step in range(20):
        gradients = {name: wave(it, 1, step) for name, it in shapes.items()}
        rule.apply(list(map(ops.convert_to_tensor, gradients.values())), variables)
        for name, gradient in gradients.items():
            if name == "kernel":
                weights[name] = weights[name] * (1 - 0.01 * 0.06)
            first[name] = 0.6 * first[name] + 0.4 * gradient
            second[name] = 0.995 * second[name] + 0.005 * gradient**2
            root = np.sqrt(second[name]) / np.sqrt(1 - 0.995 ** (step + 1))
            rate = 0.01 / (1 - 0.6 ** (step + 1))
            weights[name] = weights[name] - rate * first[name] / (root + 1e-8)
        for variable, expected in zip(variables, weights.values()):
            ours = ops.convert_to_numpy(variable)
            np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-14)
    again = AdamW.from_config(rule.get_config())
    assert again.get_config() == rule.get_config()


def test_lamb_is_that_of_the_published_runs_step_for_step(float64):
    trace = json.loads((GOLDENS / "traces" / "lamb.json").read_text())
    shapes = {name: tuple(shape) for name, shape in trace["shapes"].items()}
    variables = {
        name: keras.Variable(0.3 * wave(shape, place, -1), name=name)
        for place, (name, shape) in enumerate(shapes.items())
    }
    variables["bias"].assign(np.zeros(3))
    steps = trace["steps"]
    rule = Lamb(WarmupCosine(0.01, 0, steps), weight_decay=trace["weight_decay"])
    clipped = [norm > 1 for norm in trace["gradient_norms"]]
    assert any(clipped)
    assert not all(clipped)
    for step, expected in enumerate(trace["trace"]):
        scale = 0.02 * 3.0 ** (step % 6)
        gradients = [
            ops.convert_to_tensor(scale * wave(shape, place, step))
            for place, shape in enumerate(shapes.values())
        ]
        rule.apply(gradients, list(variables.values()))
        for name, sums in expected.items():
            value = ops.convert_to_numpy(variables[name])
            ours = [np.abs(value).sum(), value.sum()]
            np.testing.assert_allclose(ours, sums, rtol=1e-10, err_msg=f"{name} {step}")


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("rule", [CoupledSGD, AdamW, Lamb])
def test_gradients_of_parts_make_the_step_of_the_whole(rule, scaled, float64):
    gradients = np.random.default_rng(0).normal(size=(5, 3, 4, 2))

    def run(parts):
        options = {"gradient_accumulation_steps": 3} if parts else {}
        weight = keras.Variable(np.ones((4, 2)))
        # in Keras's own count the warm-up is over after a part of it
        inner = rule(WarmupCosine(0.1, 2, 5), weight_decay=0.01, **options)
        optimizer = LossScale(inner, initial_scale=8.0) if scaled else inner
        optimizer.build([weight])
        rates = []
        for step in gradients:
            rates.append(float(optimizer.learning_rate))
            for part in step if parts else [step.mean(0)]:
                scale = 8.0 if scaled else 1.0
                optimizer.apply([ops.convert_to_tensor(part * scale)], [weight])
        return ops.convert_to_numpy(weight), rates

    (ours, rates), (theirs, expected) = run(True), run(False)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    np.testing.assert_allclose(rates, expected, rtol=1e-12)
    np.testing.assert_allclose(rates[:3], [0, 0.05, 0.1], rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("rule", [CoupledSGD, AdamW, Lamb])
def test_rates_of_parts_multiply_the_whole_step_and_survive_saving(rule, tmp_path):
    def model():
        keras.utils.set_random_seed(0)
        inputs = keras.Input((4,))
        x = keras.layers.Dense(4, name="stem")(inputs)
        x = keras.layers.Dense(4, name="stage1_block0")(x)
        x = keras.layers.Dense(4, name="stage10_block0")(x)
        return keras.Model(inputs, keras.layers.Dense(2, name="head")(x))

    x, y = np.random.default_rng(0).normal(size=(2, 8, 4)).astype(np.float32)

    def moved(rates, reload=False):
        net = model()
        net.compile(rule(0.01, weight_decay=0.1, rates=rates), "mse", jit_compile=False)
        if reload:
            net.optimizer.build(net.trainable_variables)
            net.save(tmp_path / "net.keras")
            net = keras.models.load_model(tmp_path / "net.keras")
        before = [ops.convert_to_numpy(w) for w in net.weights]
        net.train_on_batch(x, y[:, :2])
        return {
            weight.path: ops.convert_to_numpy(weight) - old
            for weight, old in zip(net.weights, before)
        }

    whole = moved(None)
    for reload in (False, True):
        part = moved({"stem": 0.0, "stage1": 0.25}, reload)
        for path, step in whole.items():
            name = path.split("/")[0]
            share = {"stem": 0.0, "stage1_block0": 0.25}.get(name, 1.0)
            np.testing.assert_allclose(part[path], share * step, rtol=1e-3, atol=1e-7)


def test_rates_go_by_keras_paths_where_tensorflows_names_differ():
    import tensorflow as tf

    with tf.name_scope("outer"):
        layer = keras.layers.Dense(2, name="stem")
        layer.build((None, 3))
    assert layer.kernel.value.name != layer.kernel.path
    before = layer.get_weights()
    optimizer = CoupledSGD(0.1, rates={"stem": 0.0})
    optimizer.apply([ops.ones((3, 2)), ops.ones(2)], layer.trainable_variables)
    for ours, theirs in zip(layer.get_weights(), before):
        np.testing.assert_array_equal(ours, theirs)


def test_longest_name_of_a_part_gives_its_rate():
    optimizer = CoupledSGD(rates={"stage1": 0.5, "stage1_block1": 0.1})
    rates = {"stage1_block0": 0.5, "stage1_block1": 0.1, "stage10_block0": 1.0}
    for name, rate in rates.items():
        layer = keras.layers.Dense(2, name=name)
        layer.build((None, 3))
        assert optimizer.rate_of(layer.kernel) == rate


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


@pytest.mark.parametrize(
    "kind", ["weights.h5", pytest.param("keras", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("rule", [CoupledSGD, AdamW, Lamb])
def test_saved_optimizer_decays_the_same_variables(rule, kind, tmp_path):
    def compiled():
        inputs = keras.Input((4,))
        outputs = keras.layers.Dense(3)(keras.layers.BatchNormalization()(inputs))
        model = keras.Model(inputs, outputs)
        schedule = WarmupSteps(0.5, 3, [10, 20], factor=0.5)
        model.compile(rule(schedule, weight_decay=0.1, decay="all"), "mse")
        return model

    model = compiled()
    x, y = np.random.default_rng(0).normal(size=(2, 8, 4)).astype(np.float32)
    model.fit(x, y[:, :3], epochs=2, verbose=0)
    if kind == "keras":
        model.save(tmp_path / "model.keras")
        again = keras.models.load_model(tmp_path / "model.keras")
    else:
        model.save_weights(tmp_path / "model.weights.h5")
        again = compiled()
        again.optimizer.build(again.trainable_variables)
        again.load_weights(tmp_path / "model.weights.h5")
    assert again.optimizer.get_config() == model.optimizer.get_config()
    for ours, theirs in zip(again.optimizer.variables, model.optimizer.variables):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    for either in (model, again):
        either.fit(x, y[:, :3], epochs=1, shuffle=False, verbose=0)
    for ours, theirs in zip(again.variables, model.variables):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.addons
def test_warmup_cosine_rises_from_zero_and_ends_at_the_final_rate():
    schedule = WarmupCosine(0.4, warmup_steps=5, total_steps=25, final_rate=0.1)
    rates = [float(schedule(step)) for step in (0, 1, 5, 15, 25, 30)]
    np.testing.assert_allclose(rates, [0, 0.08, 0.4, 0.25, 0.1, 0.1], rtol=1e-6)


@pytest.mark.parametrize(("floatx", "error"), [("float32", 2e-5), ("float64", 1e-6)])
def test_gluon_rate_is_the_schedule_at_the_printed_iterations(floatx, error, request):
    if floatx == "float64":
        request.getfixturevalue("float64")
    # GluonCV's resnet50_v1d: 1251 iterations an epoch, 5 of warm-up, 120 in all
    n = 1251
    schedule = objective.schedule(RECIPES["gluon"].replace(epochs=120), n)
    for t in (0, 1, 49, 2 * n, 5 * n - 1, 5 * n, 5 * n + 1, 60 * n + 600, 119 * n):
        expected = (
            0.4 * t / (5 * n)
            if t < 5 * n
            else 0.2 * (1 + np.cos(np.pi * (t - 5 * n) / (115 * n)))
        )
        np.testing.assert_allclose(float(schedule(t)), expected, rtol=error)


@pytest.mark.addons
def test_warmup_steps_divides_at_each_boundary():
    schedule = WarmupSteps(0.1, warmup_steps=2, boundaries=[10, 20])
    rates = [float(schedule(step)) for step in (0, 1, 2, 9, 10, 19, 20, 99)]
    expected = [0, 0.05, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    np.testing.assert_allclose(rates, expected, rtol=1e-5)


@pytest.mark.addons
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
        (lambda: WarmupCosine(-0.1, 0, 5), r"base_rate=-0.1: must be 0 or more"),
        (lambda: WarmupCosine(0.1, 0, 5, 0.2), r"final_rate=0.2.*base_rate=0.1"),
        (lambda: CoupledSGD(rates={"stem": -1}), r"rates\['stem'\]=-1"),
        (lambda: Lamb(rates={"stem": "low"}), r"rates\['stem'\]='low': must be a num"),
        (lambda: Lamb(rates={"stem": np.nan}), r"rates\['stem'\]=nan"),
        (lambda: WarmupSteps(np.inf, 0, []), r"base_rate=inf: must be .* finite"),
        (lambda: WarmupCosine(0.1, 0, 5, -0.1), r"final_rate=-0.1"),
        (lambda: Lamb(weight_decay=-1), r"weight_decay=-1"),
        (lambda: Lamb(decay="some"), r"decay='some'"),
        (lambda: WarmupSteps(0.1, 0, [20, 10]), r"boundaries=\[20, 10\]"),
    ],
)
def test_bad_arguments_are_named(build, words):
    with pytest.raises(ValueError, match=words):
        build()


def trained(name):
    """[*weights, updates, loss scale or 0] after four batches.

    The second is infinite where the loss is scaled.
    """
    inner = Lamb if name == "lamb" else CoupledSGD
    parts = {"gradient_accumulation_steps": 2} if name == "parts" else {}
    schedule = WarmupCosine(0.1, 1, 4)
    rule = inner(schedule, weight_decay=0.01, rates={"stem": 0.5}, **parts)
    rule = LossScale(rule, initial_scale=4.0) if name == "scaled" else rule
    x = inputs = keras.Input((4,))
    for part in ("stem", "head"):
        x = keras.layers.Dense(3, kernel_initializer="ones", name=part)(x)
    model = keras.Model(inputs, x)
    model.compile(rule, "mse")
    batches = np.random.default_rng(0).normal(size=(4, 2, 8, 4)).astype(np.float32)
    for step, (x, y) in enumerate(batches):
        infinite = name == "scaled" and step == 1
        model.train_on_batch(x * (np.inf if infinite else 1), y[:, :3])
    weights = np.concatenate([weight.ravel() for weight in model.get_weights()])
    scale = float(rule.dynamic_scale) if name == "scaled" else 0
    return [*weights.tolist(), int(rule.iterations), scale]


@pytest.mark.slow
def test_rules_take_the_same_steps_on_jax():
    names = ["sgd", "lamb", "parts", "scaled"]
    script = (
        "import json, sys; sys.path.insert(0, sys.argv[1])\n"
        "import test_optimizers as here\n"
        f"steps = {{name: here.trained(name) for name in {names}}}\n"
        "assert 'tensorflow' not in sys.modules\n"
        "print(here.keras.backend.backend(), json.dumps(steps))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, os.path.dirname(__file__)],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr
    backend, said = done.stdout.strip().splitlines()[-1].split(" ", 1)
    assert backend == "jax"
    for name, theirs in json.loads(said).items():
        ours = trained(name)
        np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-6, err_msg=name)
        updates = {"sgd": 4, "lamb": 4, "parts": 2, "scaled": 3}[name]
        assert ours[-2:] == [updates, 2.0 if name == "scaled" else 0]
