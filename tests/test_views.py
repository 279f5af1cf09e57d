"""Ten crops and several scales give the averages that they say."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_resnet
from keras_resnet import data, evaluate
from keras_resnet.model import ModelError, Protocol
from keras_resnet.views import MultiScale


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    net = keras_resnet.create("resnet18d", classes=3, width=8, zero_gamma=False)
    net.info = net.info.replace(
        protocol=Protocol(64, 0.875, "bicubic"), class_names=("blue", "green", "red")
    )
    return net


def pairs(folder):
    return [
        (data.decode_image(encoded), int(label))
        for encoded, label in data.open_source(folder).val.ordered()
    ]


def test_ten_crop_evaluation_averages_the_crops_probabilities(model, folder):
    measured = evaluate.run(model, folder, views="ten-crop", batch_size=5)
    assert measured["examples"] == 12
    losses, hits = [], 0
    for image, label in pairs(folder):
        outputs = model.predict_on_batch(data.ten_crop(image, 64, 0.875).numpy())
        losses.append(-np.log(outputs.mean(0)[label]))
        hits += outputs.mean(0).argmax() == label
    np.testing.assert_allclose(measured["loss"], np.mean(losses), rtol=1e-5)
    assert measured["top1"] == hits / 12


def test_multi_scale_is_the_classifier_at_every_place(model, folder):
    # literally: each window of features through the head, one by one
    image = pairs(folder)[0][0]
    body = keras.Model(model.inputs, model.pyramid_outputs["P5"])
    head = model.get_layer("head")
    kernel, bias = np.asarray(head.kernel), np.asarray(head.bias)
    results = []
    for short in (64, 100, 130):
        resized = data.resize_short(image, short).numpy()
        for view in (resized, resized[:, ::-1]):
            maps = body.predict_on_batch(view[None])[0].astype(np.float64)
            scores = [
                maps[y : y + 2, x : x + 2].mean((0, 1)) @ kernel + bias
                for y in range(maps.shape[0] - 1)
                for x in range(maps.shape[1] - 1)
            ]
            exponents = np.exp(np.mean(scores, 0))
            results.append(exponents / exponents.sum())
    ours = MultiScale(model, scales=(64, 100, 130))(image)
    np.testing.assert_allclose(ours, np.mean(results, 0), rtol=1e-5)
    np.testing.assert_allclose(ours.sum(), 1, rtol=1e-6)


def test_multi_scale_evaluation_sees_each_picture_once(model, folder, monkeypatch):
    monkeypatch.setattr(MultiScale.__init__, "__defaults__", ((64, 96),))
    measured = evaluate.run(model, folder, views="multi-scale")
    look = MultiScale(model)
    losses = [-np.log(look(image)[label]) for image, label in pairs(folder)]
    np.testing.assert_allclose(measured["loss"], np.mean(losses), rtol=1e-5)
    assert measured["examples"] == 12


def test_one_place_at_one_scale_is_the_model_itself(model, folder):
    square = tf.image.resize(pairs(folder)[0][0], [64, 64])
    square = tf.cast(tf.round(square), tf.uint8)
    both = model.predict_on_batch(np.stack([square, square[:, ::-1]]))
    np.testing.assert_allclose(
        MultiScale(model, scales=(64,))(square), both.mean(0), rtol=1e-5
    )


def test_multi_scale_needs_a_model_for_any_size():
    fixed = keras_resnet.create("resnet18d", width=8, input_shape=(64, 64, 3))
    with pytest.raises(ModelError, match=r"\(64, 64\) pixels only.*input_shape=None"):
        MultiScale(fixed)


def test_unknown_views_are_named(model, folder):
    with pytest.raises(ValueError, match=r"views='all': must be one of.*ten-crop"):
        evaluate.run(model, folder, views="all")
