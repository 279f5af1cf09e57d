"""A recipe becomes a model: what starts it, what learns in it, what is refused."""

import numpy as np
import pytest
import tensorflow as tf

import keras_resnet
from keras_resnet import train
from keras_resnet.backend import keras, ops
from keras_resnet.errors import RecipeError
from keras_resnet.info import Protocol
from keras_resnet.opening import read_model_info
from keras_resnet.recipe import Recipe
from keras_resnet.recipes import RECIPES
from keras_resnet.train import build as building
from keras_resnet.train.build import (
    audit,
    build,
    net_fields,
    precision_policy,
    resolve,
)
from keras_resnet.train.distillation import Distiller

NAMES = ("blue", "green", "red")


def small(**fields):
    basics = {
        "model": "resnet18d",
        "overrides": {"width": 8, "depths": [1, 1, 1, 1]},
        "precision": "float32",
        "train_size": 32,
        "test_size": 32,
        "batch_size": 8,
        "mixup": 0.0,
    }
    return Recipe().replace(**{**basics, **fields})


def values(variables):
    return [ops.convert_to_numpy(variable) for variable in variables]


def images(seed=0):
    random = np.random.default_rng(seed)
    x = random.uniform(0, 255, (8, 32, 32, 3)).astype(np.float32)
    return x, np.eye(3, dtype=np.float32)[random.integers(3, size=8)]


def steps(recipe, count=2):
    """(the model, {path: value before}, {path: value after}) of a few steps."""
    keras.utils.set_random_seed(0)
    model = build(recipe.replace(warmup_epochs=0.0), NAMES, 4).model
    before = {w.path: ops.convert_to_numpy(w) for w in model.net.weights}
    for step in range(count):
        model.train_on_batch(*images(step))
    return model, before, {w.path: ops.convert_to_numpy(w) for w in model.net.weights}


def test_frozen_stages_keep_weights_and_statistics_and_the_others_learn():
    # a branch of zero gamma learns nothing at first
    overrides = {**small().overrides, "zero_gamma": False}
    recipe = small(stage_rates=[0, 0, 0.1, 1, 1], overrides=overrides)
    model, before, after = steps(recipe)
    for path, value in after.items():
        part = path.split("/")[0]
        frozen = part == "stem" or part.startswith("stage1_")
        assert np.array_equal(value, before[path]) == frozen, path
    rows = {row["variable"]: row for row in audit(model)}
    assert rows["stem/conv1/conv/kernel"] == {
        "variable": "stem/conv1/conv/kernel",
        "shape": [3, 3, 3, 4],
        "decays": False,
        "rate": 0.0,
    }
    assert rows["stage2_block0/conv1/conv/kernel"]["rate"] == 0.1
    assert rows["head/kernel"]["rate"] == 1.0


@pytest.mark.slow
def test_rate_of_a_stage_multiplies_its_step():
    overrides = {**small().overrides, "zero_gamma": False}
    plain = steps(small(overrides=overrides, weight_decay=0.0), 1)
    slow = steps(
        small(overrides=overrides, weight_decay=0.0, stage_rates=[1, 0.25, 1, 1, 1]), 1
    )
    for path, start in plain[1].items():
        if "moving" in path:
            continue
        whole, part = plain[2][path] - start, slow[2][path] - start
        share = 0.25 if path.startswith("stage1_") else 1.0
        np.testing.assert_allclose(part, share * whole, rtol=1e-2, atol=1e-6)


def test_frozen_statistics_normalize_and_stay_while_gamma_learns():
    _, before, after = steps(small(freeze_statistics=True))
    assert any("moving" in path for path in after)
    for path, value in after.items():
        if "moving" in path:
            np.testing.assert_array_equal(value, before[path], err_msg=path)
    gamma = "stem/conv1/norm/gamma"
    assert np.any(after[gamma] != before[gamma])


@pytest.mark.parametrize("decay", ["kernels", "all"])
@pytest.mark.parametrize("rule", ["sgd", "lamb"])
def test_audit_says_what_decays(rule, decay):
    model = build(small(optimizer=rule, decay=decay, base_rate=0.01), NAMES, 4).model
    rows = audit(model)
    assert len(rows) == len(model.net.trainable_variables)
    for row in rows:
        kernel = row["variable"].endswith("kernel")
        assert row["decays"] == (kernel or decay == "all"), row
        assert row["rate"] == 1.0
    assert sum(row["variable"].endswith("kernel") for row in rows) == 15


@pytest.mark.parametrize(
    ("kind", "uniform"), [("he", False), ("xavier", True), ("msra-prelu", False)]
)
def test_kernels_are_drawn_as_published(kind, uniform):
    wide = small(initializer=kind, overrides={"width": 64, "depths": [1, 1, 1, 1]})
    keras.utils.set_random_seed(0)
    net = build(wide, NAMES, 4).model.net
    kernel = ops.convert_to_numpy(net.get_layer("stage4_block0").conv1.conv.kernel)
    fan_in, fan_out = 9 * 256, 9 * 512
    variance = {
        "he": 2 / fan_out,
        "xavier": 2 / (fan_in + fan_out),
        "msra-prelu": 2 / (1 + 0.25**2) / ((fan_in + fan_out) / 2),
    }[kind]
    assert kernel.var() == pytest.approx(variance, rel=0.01)
    if uniform:  # [-a, a] of the paper, a = sqrt(6 / (in + out))
        assert np.abs(kernel).max() <= np.sqrt(6 / (fan_in + fan_out))
    else:
        assert np.abs(kernel).max() > 4 * np.sqrt(variance)
    other = ops.convert_to_numpy(net.get_layer("stage3_block0").conv2.conv.kernel)
    first = kernel.ravel()[: other.size]
    assert abs(np.corrcoef(first, other.ravel())[0, 1]) < 0.02
    keras.utils.set_random_seed(0)
    again = build(wide, NAMES, 4).model.net.get_layer("stage4_block0").conv1.conv.kernel
    np.testing.assert_array_equal(ops.convert_to_numpy(again), kernel)
    if kind != "he":
        assert not np.any(ops.convert_to_numpy(net.get_layer("head").bias))


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """Weights of five classes with a protocol and a mean of their own."""
    keras.utils.set_random_seed(3)
    model = keras_resnet.create(
        "resnet18d",
        width=8,
        depths=(1, 1, 1, 1),
        classes=5,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    model.info = model.info.replace(protocol=Protocol(40, 1.0, "bilinear"))
    path = tmp_path_factory.mktemp("weights") / "five.safetensors"
    keras_resnet.save_weights(model, path)
    return path, model


def fine_tune(weights, **fields):
    return RECIPES["fine-tune"].replace(
        weights=str(weights),
        model="resnet18d",
        overrides=small().overrides,
        precision="float32",
        train_size=32,
        batch_size=8,
        **fields,
    )


def test_fine_tuning_keeps_body_protocol_and_mean_and_replaces_the_head(released):
    path, theirs = released
    recipe = resolve(fine_tune(path))
    assert recipe.protocol == Protocol(40, 1.0, "bilinear")
    net = build(recipe, NAMES, 4).model.net
    assert net.info.protocol == Protocol(40, 1.0, "bilinear")
    assert net.info.config.mean == (0.5, 0.5, 0.5)
    assert net.info.class_names == NAMES
    assert net.output_shape == (None, 3)
    for ours, weight in zip(net.weights, theirs.weights):
        if not ours.path.startswith("head"):
            np.testing.assert_array_equal(ours, weight, err_msg=ours.path)


def test_own_protocol_wins_over_that_of_the_weights(released):
    recipe = fine_tune(released[0], test_size=48, crop_pct=0.9)
    assert resolve(recipe).protocol == Protocol(48, 0.9, "bilinear")
    with pytest.raises(
        RecipeError, match=r"test_size=0.*are taken from weights='.*without"
    ):
        fine_tune(released[0]).protocol  # noqa: B018
    with pytest.raises(RecipeError, match="are taken from weights, and weights=''"):
        small(test_size=0)


def test_a_head_of_other_classes_is_fresh_though_they_are_as_many(tmp_path):
    keras.utils.set_random_seed(3)
    theirs = keras_resnet.create("resnet18d", width=8, depths=(1, 1, 1, 1), classes=3)
    for names, kept in ((("cat", "cow", "dog"), False), (NAMES, True)):
        theirs.info = theirs.info.replace(class_names=names)
        theirs.save(tmp_path / "three.keras")
        net = build(resolve(fine_tune(tmp_path / "three.keras")), NAMES, 4).model.net
        head, other = net.get_layer("head").kernel, theirs.get_layer("head").kernel
        assert np.array_equal(head, other) == kept
        stem, other = (
            model.get_layer("stem").conv1.conv.kernel for model in (net, theirs)
        )
        np.testing.assert_array_equal(stem, other)
        assert net.info.class_names == NAMES


def test_weights_of_another_net_are_refused(released, tmp_path):
    keras_resnet.save_weights(released[1], tmp_path / "five.npz")
    recipe = fine_tune(tmp_path / "five.npz").replace(
        overrides={"width": 8}, test_size=32, crop_pct=1.0, interpolation="bicubic"
    )
    with pytest.raises(keras_resnet.WeightsError, match="stage1_block1"):
        build(resolve(recipe), NAMES, 4)


def test_weights_of_ours_say_which_net_they_are_of(released, trained, tmp_path):
    path, _ = released
    net = {"model": "resnet18d", "overrides": {"width": 8, "depths": [1, 1, 1, 1]}}
    assert net_fields(path) == net  # no mean, which training takes by itself
    run, _ = trained
    overrides = {"width": 8, "depths": [1, 1], "drop_path": 0.1}
    assert net_fields(run) == {"model": "resnet18d", "overrides": overrides}
    for nothing in (tmp_path, tmp_path / "nowhere.keras", "imagenet", "ra2_in1k"):
        assert net_fields(nothing) == {}
    for fields in ({"overrides": {}}, {"model": "resnet50d"}):
        with pytest.raises(
            keras_resnet.WeightsError,
            match=r"^weights='.*five.safetensors': are for model='resnet18d' with "
            r"overrides=\{.*'width': 8.*\}, not for model='resnet.*; change these ",
        ):
            build(resolve(fine_tune(path)).replace(**fields), NAMES, 4)


@pytest.fixture
def cpu(monkeypatch):
    def cpu(flags):
        monkeypatch.setattr(building, "on_gpu", lambda: False)
        monkeypatch.setattr(building.Path, "read_text", lambda path: flags)

    return cpu


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("flags : fpu avx2 avx512_bf16 sse", "mixed_bfloat16"),
        ("flags : fpu amx_bf16 amx_tile", "mixed_bfloat16"),
        ("flags : fpu avx2 avx512f", "float32"),
    ],
)
def test_auto_precision_is_bfloat16_where_the_cpu_multiplies_it(flags, expected, cpu):
    cpu(flags)
    assert precision_policy(Recipe()) == expected
    assert precision_policy(Recipe(precision="float32")) == "float32"


def test_auto_precision_is_float16_on_a_gpu_and_float32_where_nothing_is_known(
    monkeypatch,
):
    monkeypatch.setattr(building, "on_gpu", lambda: True)
    assert precision_policy(Recipe()) == "mixed_float16"

    def nothing(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(building, "on_gpu", lambda: False)
    monkeypatch.setattr(building.Path, "read_text", nothing)
    assert precision_policy(Recipe()) == "float32"


def test_hidden_gpu_and_apples_do_not_count(monkeypatch):
    gpu, visible = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU"), []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [gpu])
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: visible)
    assert not building.on_gpu()
    visible.append(gpu)
    assert building.on_gpu()
    monkeypatch.setattr(building.sys, "platform", "darwin")
    assert not building.on_gpu()


def test_float16_training_scales_its_loss_and_leaves_the_policy_alone():
    model = build(small(precision="mixed_float16"), NAMES, 4).model
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.slow
def test_teacher_is_a_run_and_its_classes_are_checked_first(trained, monkeypatch):
    run, _ = trained
    recipe = small(teacher=str(run), temperature=5.0)
    model = build(recipe, NAMES, 4).model
    assert isinstance(model, Distiller)
    assert np.isfinite(model.train_on_batch(*images())[0])
    monkeypatch.setattr(building, "assemble", None)  # nothing is built
    for names, words in (
        (("blue", "green", "grey"), r"those of the data \(grey, red\)"),
        (("blue", "green"), r"those of the data \(red\)"),
    ):
        with pytest.raises(RecipeError, match=words):
            build(recipe, names, 4)


def test_released_teacher_has_a_thousand_classes():
    recipe = RECIPES["bag-of-tricks-distilled"]
    with pytest.raises(RecipeError, match="has 1000 classes, but the data has 3; use"):
        build(recipe, NAMES, 4)
    assert read_model_info(recipe.teacher).classes == 1000


@pytest.mark.parametrize(
    ("teacher", "words"),
    [
        ("resnet152d", "resnet152d: a variant without weights; .*resnet152d:imagenet"),
        ("nowhere", "nowhere: neither"),
        ("nowhere.keras", "nowhere.keras: no such file"),
    ],
)
def test_teacher_that_is_not_there_is_named(teacher, words):
    with pytest.raises(keras_resnet.model.ModelError, match=words):
        build(small(teacher=teacher, temperature=1.0), NAMES, 4)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model": "resnet51d"}, "model='resnet51d'"),
        ({"overrides": {"depth": 3}}, "unknown override depth"),
        ({"stage_rates": [0, 1]}, r"stage_rates=\(0.0, 1.0\): must be 5.*stem, stage1"),
        (
            {"overrides": {"fused_batch_norm": False}, "freeze_statistics": True},
            "freeze_statistics=True: needs this package",
        ),
        ({"final_rate": 1.0}, "final_rate=1.0: must be at most"),
        (
            {"label_smoothing": 0.9, "smoothing": "other-classes"},
            "label_smoothing=0.9: must be at most",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    fields, words, folder, tmp_path
):
    with pytest.raises((ValueError, TypeError), match=words):
        train.fit(small(**fields), folder, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
