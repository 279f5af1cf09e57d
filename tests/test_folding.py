"""Folding changes no answer, and leaves no normalization."""

import keras
import numpy as np
import pytest

import keras_resnet
from keras_resnet import export
from keras_resnet.complexity import complexity, variable_shapes
from keras_resnet.errors import ModelError
from keras_resnet.model import rebuild
from keras_resnet.opening import open_model

NETS = {
    "resnet18d": {},
    "resnet50a": {},
    "seresnet50d": {},
    "ecaresnet50d": {},
    "resnext50d_32x4d": {"width": 32},
    "resnet50t": {},
    "resnet18b": {"shortcut": "zero_pad"},
    "resnet26d": {"output_stride": 8, "first_stage_projection": True},
    "resnet26c": {"fused_batch_norm": False},
    "resnetaa50d": {},
    "resnetblur50": {"output_stride": 8, "depths": (1, 1, 1)},
    "resnetrs50": {},
    "senet154": {"width": 32},
    "resnet50_gn": {"width": 32},
}
QUICK = {"resnet18d", "seresnet50d", "resnet18b"}


def seasoned(name, **overrides):
    """A net as training leaves it: no statistic, gamma or beta is what it began as."""
    options = {"width": 16, "depths": (1, 2), "classes": 10} | overrides
    model = keras_resnet.create(name, **options)
    rng = np.random.default_rng(0)
    for variable in model.weights:
        leaf = variable.path.rpartition("/")[2]
        if leaf in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 2, variable.shape))
        if leaf in ("beta", "moving_mean"):
            variable.assign(rng.normal(0, 0.3, variable.shape))
    return model


@pytest.fixture
def images():
    return np.random.default_rng(1).uniform(0, 255, (4, 48, 40, 3)).astype(np.float32)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in NETS
    ],
)
def test_logits_stay(name, images):
    model = seasoned(name, classifier_activation=None, **NETS[name])
    before = model.get_weights()
    folded = export.fold_batch_norm(model)
    expected = model.predict(images, verbose=0)
    difference = np.abs(folded.predict(images, verbose=0) - expected).max()
    assert difference < 1e-5 * expected.std()
    for value, kept in zip(model.get_weights(), before):
        np.testing.assert_array_equal(value, kept)


@pytest.mark.parametrize("name", [name for name in NETS if name != "resnet50_gn"])
def test_no_batch_normalization_is_left(name):
    model = seasoned(name, **NETS[name])
    folded = export.fold_batch_norm(model)
    layers = folded._flatten_layers()
    assert not any(isinstance(it, keras.layers.BatchNormalization) for it in layers)
    shapes = {weight.path: tuple(weight.shape) for weight in folded.weights}
    assert shapes == variable_shapes(folded.info.config, classes=10)
    assert folded.count_params() == complexity(folded.info.config, classes=10)[0]
    norms = [w.shape[0] for w in model.weights if w.path.endswith("norm/gamma")]
    # of a channel's gamma, beta, mean and variance a bias stays
    assert folded.count_params() == model.count_params() - 3 * sum(norms)


def test_group_normalization_stays():
    model = seasoned("resnet50_gn", width=32)
    folded = export.fold_batch_norm(model)
    assert folded.info == model.info
    assert [w.path for w in folded.weights] == [w.path for w in model.weights]


def test_features_of_a_backbone_stay(images):
    model = seasoned("resnet26d", include_top=False, pooling=None)
    expected = model.predict(images, verbose=0)
    ours = export.fold_batch_norm(model).predict(images, verbose=0)
    # float32 has no more than seven digits of the largest features
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5 * expected.std())


def test_net_of_half_precision_is_folded_in_float32(images):
    model = rebuild(seasoned("resnet18d"), "mixed_float16")
    folded = export.fold_batch_norm(model)
    assert {weight.dtype for weight in folded.weights} == {"float32"}
    assert {layer.compute_dtype for layer in folded.layers} == {"float32"}
    wide = rebuild(model, "float32").predict(images, verbose=0)
    ours = folded.predict(images, verbose=0)
    np.testing.assert_allclose(ours, wide, atol=1e-5)


def test_bfloat16_keeps_half_the_bytes_and_answers_in_float32(images):
    model = seasoned("resnet18d")
    folded = export.fold_batch_norm(model, "bfloat16")
    kernels = {w.dtype for w in folded.weights if not w.path.startswith("head")}
    assert kernels == {"bfloat16"}
    assert {weight.dtype for weight in folded.get_layer("head").weights} == {"float32"}
    ours, expected = (m.predict(images, verbose=0) for m in (folded, model))
    assert ours.dtype == np.float32
    assert 0 < np.abs(ours - expected).max() < 0.05


def test_folded_net_is_saved_opened_and_folded_again(tmp_path, images):
    folded = export.fold_batch_norm(seasoned("resnet18d"))
    folded.save(tmp_path / "folded.keras")
    opened = open_model(tmp_path / "folded.keras")
    expected = folded.predict(images, verbose=0)
    for model in (opened, export.fold_batch_norm(opened)):
        np.testing.assert_array_equal(model.predict(images, verbose=0), expected)


def test_what_cannot_be_folded_is_named():
    model = seasoned("resnet18d")
    with pytest.raises(ModelError, match="precision='float16': must be 'float32' or"):
        export.fold_batch_norm(model, "float16")
    inputs = keras.Input((4,), name="x")
    foreign = keras.Model(inputs, keras.layers.Dense(2)(inputs), name="foreign")
    with pytest.raises(ModelError, match="foreign: must be a net of keras_resnet"):
        export.fold_batch_norm(foreign)
