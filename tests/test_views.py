"""Ten crops and several scales give the averages that they say."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_resnet
from keras_resnet import data, evaluate
from keras_resnet.errors import DataError, ModelError
from keras_resnet.evaluate.views import MultiScale
from keras_resnet.info import Protocol
from keras_resnet.model import rebuild


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    net = keras_resnet.create(
        "resnet18d", classes=3, width=8, depths=(1, 1, 1, 1), zero_gamma=False
    )
    net.info = net.info.replace(
        protocol=Protocol(64, 0.875, "bicubic"), class_names=("blue", "green", "red")
    )
    return net


def pairs(folder):
    return [
        (data.decode_image(encoded), int(label))
        for encoded, label in data.open_source(folder).val.ordered()
    ]


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "views", ["center", pytest.param("multi-scale", marks=pytest.mark.slow)]
)
def test_scales_mean_multi_scale_at_them_each_picture_once(views, model, folder):
    measured = evaluate.run(model, folder, views=views, scales=(64, 96))
    multi_scale = MultiScale(model, (64, 96))
    losses = [-np.log(multi_scale(image)[label]) for image, label in pairs(folder)]
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


@pytest.mark.slow
def test_multi_scale_without_scales_is_the_papers(model, folder):
    few = folder_of_one(folder)
    ours = evaluate.run(model, few, views="multi-scale")
    assert ours == evaluate.run(model, few, scales=(224, 256, 384, 480, 640))


def folder_of_one(folder):
    """Arrays of one picture that have the folder's classes."""
    image, label = pairs(folder)[0]
    pair = image[None].numpy(), np.array([label])
    return {"val": pair, "class_names": ["blue", "green", "red"]}


@pytest.mark.slow
@pytest.mark.parametrize("views", ["center", "ten-crop"])
def test_size_is_the_crops_instead_of_the_protocols(views, model, folder):
    other = rebuild(model)
    other.info = model.info.replace(protocol=Protocol(96, 0.875, "bicubic"))
    ours = evaluate.run(model, folder, views=views, size=96)
    assert ours == evaluate.run(other, folder, views=views)


@pytest.mark.slow
def test_model_of_a_fixed_size_is_evaluated_at_others_and_stays_as_it_is(model, folder):
    fixed = rebuild(model, input_shape=(64, 64, 3))
    info, weights = fixed.info, fixed.get_weights()
    for options in ({"size": 96}, {"size": 64}, {"scales": (64, 96)}):
        ours = evaluate.run(fixed, folder, **options)
        assert ours == evaluate.run(model, folder, **options)
    assert fixed.info is info
    assert fixed.input_shape == (None, 64, 64, 3)
    for before, after in zip(weights, fixed.get_weights()):
        np.testing.assert_array_equal(before, after)


@pytest.mark.slow
def test_logits_and_half_precision_stay_so_at_another_size(model, folder):
    changes = {"input_shape": (64, 64, 3), "classifier_activation": None}
    half = rebuild(model, "mixed_bfloat16", **changes)
    ours = evaluate.run(half, folder, size=96)
    changes["input_shape"] = None
    assert ours == evaluate.run(
        rebuild(model, "mixed_bfloat16", **changes), folder, size=96
    )
    assert ours["loss"] != evaluate.run(model, folder, size=96)["loss"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"views": "all"}, "views='all': must be one of.*ten-crop"),
        ({"size": 0}, "size=0: must be pixels, 1 to 9459"),
        ({"size": -224}, "size=-224: must be pixels"),
        ({"size": 224.0}, "size=224.0: must be pixels"),
        ({"size": True}, "size=True: must be pixels"),
        ({"size": 10**6}, "size=1000000: must be pixels"),
        ({"scales": (224, 0)}, r"scales=\(224, 0\): must be a tuple of pixels, each 1"),
        ({"scales": (224.5,)}, r"scales=\(224.5,\): must be"),
        ({"scales": 224}, "scales=224: must be a tuple"),
        ({"scales": "224"}, "scales='224': must be a tuple"),
        (
            {"scales": (224,), "views": "ten-crop"},
            r"scales=\(224,\) with views='ten-crop'.*leave out one",
        ),
        (
            {"size": 96, "views": "multi-scale"},
            "size=96 with views='multi-scale'.*give scales alone",
        ),
        ({"size": 96, "scales": (64,)}, "size=96 with views='multi-scale'"),
    ],
)
def test_invalid_views_are_named_before_data_is_read(options, words, model):
    with pytest.raises(ValueError, match=words) as caught:
        evaluate.run(model, "nowhere", **options)
    assert not isinstance(caught.value, DataError)


def test_scale_that_makes_a_picture_too_large_is_named(model):
    long = np.zeros((4, 400, 3), np.uint8)
    with pytest.raises(DataError, match=r"400 x 4 pixels.*short side of 9000"):
        MultiScale(model, (32, 9000))(long)
