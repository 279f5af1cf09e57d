"""AlexNet, GoogLeNet and the nets of keras.applications with torchvision's weights."""

import numpy as np
import pytest
from checkpoints import checkpoint, image, recorded
from safetensors.numpy import save_file
from weight_files import write_torch

import keras_resnet
from keras_resnet import WeightsError, baselines, load_weights
from keras_resnet.backend import keras

# net -> how it is built, the side of the recorded input, tolerance, parameters
NETS = {
    "alexnet": (baselines.AlexNet, 224, 3e-5, 61_100_840),
    "googlenet": (baselines.GoogLeNet, 224, 1e-5, 13_004_888),
    "densenet121": (keras.applications.DenseNet121, 224, 1e-5, 7_978_856),
    "inception_v3": (keras.applications.InceptionV3, 299, 1e-5, 23_817_352),
    "vgg16": (keras.applications.VGG16, 224, 3e-5, 138_357_544),
}
SLOW = {"vgg16", "inception_v3", "densenet121"}


@pytest.fixture(scope="module")
def googlenet():
    """A GoogLeNet with the recorded weights; tests do not change it."""
    tensors = checkpoint("torchvision/googlenet")
    return baselines.GoogLeNet(tensors, classifier_activation=None)


def built(name):
    return NETS[name][0](weights=None, classifier_activation=None)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
        for name in NETS
    ],
)
def test_logits_are_torchvisions_through_a_file(name, tmp_path):
    _, side, tolerance, parameters = NETS[name]
    tensors, path = checkpoint(f"torchvision/{name}"), tmp_path / "net.pth"
    if name == "alexnet":
        path = tmp_path / "net.safetensors"
        save_file(tensors, path)
    else:
        write_torch(path, tensors)
    model = built(name)
    report = load_weights(model, path, dialect="torchvision")
    trained = sum(np.prod(variable.shape) for variable in model.trainable_variables)
    assert trained == parameters
    assert (report.dialect, report.initial) == ("torchvision", ())
    expected = recorded(f"torchvision/{name}", side)["logits"]
    ours = model.predict_on_batch(image(side))
    assert np.abs(ours - expected).max() < tolerance * expected.std()
    if name == "inception_v3":  # whose averages were changed
        model.save(tmp_path / "net.keras")
        again = keras.models.load_model(tmp_path / "net.keras")
        np.testing.assert_array_equal(again.predict_on_batch(image(side)), ours)


def test_every_misfit_is_listed_and_nothing_is_loaded():
    tensors = checkpoint("torchvision/alexnet")
    del tensors["features.0.bias"]
    tensors["fc.weight"] = np.zeros(3, np.float32)
    tensors["classifier.6.bias"] = np.zeros(3, np.float32)
    model = built("alexnet")
    before = model.get_layer("conv2").kernel.numpy()
    with pytest.raises(WeightsError) as error:
        load_weights(model, tensors)
    for words in (
        "does not fit alexnet",
        "missing features.0.bias",
        "unexpected fc.weight",
        "classifier.6.bias (3,), not (1000,)",
    ):
        assert words in str(error.value)
    np.testing.assert_array_equal(model.get_layer("conv2").kernel, before)


def test_other_classes_load_all_but_the_classifier():
    tensors = checkpoint("torchvision/alexnet")
    model = baselines.AlexNet(classes=7)
    with pytest.raises(WeightsError, match="classifier"):
        load_weights(model, tensors)
    report = load_weights(model, tensors, strict=False)
    assert report.initial == ("head/kernel", "head/bias")
    np.testing.assert_array_equal(
        model.get_layer("conv1").bias, tensors["features.0.bias"]
    )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)]),
            "must be",
        ),
        (
            lambda: keras.applications.DenseNet121(include_top=False, weights=None),
            "include_top=True",
        ),
    ],
)
def test_other_nets_are_told_which_load(make, words):
    with pytest.raises(WeightsError, match=words):
        load_weights(make(), checkpoint("torchvision/densenet121"))


def test_another_dialect_is_refused():
    with pytest.raises(WeightsError, match="dialect='gluon': alexnet takes"):
        load_weights(built("alexnet"), {}, dialect="gluon")


def test_sides_other_than_224_are_averaged_to_6x6():
    model = baselines.AlexNet(classes=3, input_shape=(96, 80, 3))
    assert model.output_shape == (None, 3)
    assert model.get_layer("flatten").output.shape == (None, 36 * 256)


def test_least_side_gives_one_pixel_which_is_repeated_also_in_a_graph():
    model = baselines.AlexNet(classes=3, input_shape=(63, 96, 3), alpha=1 / 8)
    images = np.random.default_rng(0).normal(size=(2, 63, 96, 3))
    features = keras.Model(model.inputs, model.get_layer("flatten").output)
    last = keras.Model(model.inputs, model.get_layer("pool5").output)
    rows = features.predict(images, verbose=0).reshape(2, 6, 6, 32)
    pixels = last.predict(images, verbose=0)
    assert pixels.shape == (2, 1, 2, 32)
    np.testing.assert_array_equal(rows[:, 3, [0, -1]], pixels[:, 0])


def test_alpha_scales_the_filters():
    quarter = baselines.AlexNet(alpha=1 / 4)
    assert quarter.get_layer("conv2").kernel.shape == (5, 5, 16, 48)
    assert quarter.get_layer("head").kernel.shape == (1024, 1000)
    quarter = baselines.GoogLeNet(alpha=1 / 4)
    assert quarter.get_layer("conv3").output.shape[-1] == 48
    assert quarter.get_layer("head").kernel.shape == (256, 1000)


def test_preprocessing_is_imagenets():
    pixels = (
        np.random.default_rng(0).uniform(0, 255, (1, 224, 224, 3)).astype("float32")
    )
    inside = baselines.AlexNet(classes=3, include_preprocessing=True)
    outside = baselines.AlexNet(classes=3)
    outside.set_weights(inside.get_weights())
    mean, std = keras_resnet.VARIANTS["resnet50d"].mean, (0.229, 0.224, 0.225)
    normalized = ((pixels / 255 - mean) / std).astype("float32")
    np.testing.assert_allclose(
        inside.predict_on_batch(pixels), outside.predict_on_batch(normalized), atol=1e-5
    )


@pytest.mark.slow
def test_auxiliary_heads_add_their_losses_in_training_alone():
    model = baselines.GoogLeNet(classes=5, input_shape=(64, 64, 3), dropout=0.0)
    for name in ("aux1", "aux2"):
        model.get_layer(name).dropout.rate = 0.0
    model.compile(loss="categorical_crossentropy")
    x = np.random.default_rng(0).normal(size=(4, 64, 64, 3)).astype("float32")
    y = np.eye(5, dtype="float32")[[0, 1, 2, 3]]
    answers = model(x, training=True)
    logits = list(model.get_layer("auxiliaries").kept)
    assert len(logits) == 2
    crossentropy = keras.losses.CategoricalCrossentropy(from_logits=True)
    main = keras.losses.CategoricalCrossentropy()(y, answers)
    expected = main + 0.3 * sum(crossentropy(y, each) for each in logits)
    ours = model.compute_loss(x, y, answers, training=True)
    np.testing.assert_allclose(ours, expected, rtol=1e-6)
    answers = model(x, training=False)
    assert list(model.get_layer("auxiliaries").kept) == []
    ours = model.compute_loss(x, y, answers, training=False)
    np.testing.assert_allclose(
        ours, keras.losses.CategoricalCrossentropy()(y, answers), rtol=1e-6
    )
    before = model.get_layer("aux1").fc2.kernel.numpy()
    model.fit(x, y, batch_size=4, verbose=0)
    assert np.abs(model.get_layer("aux1").fc2.kernel.numpy() - before).max() > 0


@pytest.mark.slow
def test_nets_come_back_from_their_files(googlenet, tmp_path):
    googlenet.save(tmp_path / "net.keras")
    again = keras.models.load_model(tmp_path / "net.keras")
    assert type(again) is type(googlenet)
    x = image(224)[:1]
    np.testing.assert_array_equal(
        again.predict_on_batch(x), googlenet.predict_on_batch(x)
    )


def test_without_auxiliary_heads_it_has_the_published_parameters():
    model = baselines.GoogLeNet(auxiliary=False)
    trained = sum(np.prod(variable.shape) for variable in model.trainable_variables)
    assert trained == 6_624_904
