"""Grad-CAM is what its paper says, on any net, and finds what the class depends on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import keras_resnet
from keras_resnet.backend import keras
from keras_resnet.classifier import adapt
from keras_resnet.errors import DataError, ModelError
from keras_resnet.evaluate.views import predict_probabilities
from keras_resnet.explain import grad_cam
from keras_resnet.model import rebuild

DIGITS = Path(__file__).parents[1] / "models" / "resnet18d-digits"


def pictures(count=3, side=32, seed=0):
    drawn = np.random.default_rng(seed)
    return drawn.integers(0, 256, (count, side, side, 3), np.uint8)


def with_drawn_weights(net):
    """The net with weights that are the same on every backend, and none of them zero.

    Without this the last normalization of a block would give zeros.
    """
    drawn = np.random.default_rng(0)
    for weight in sorted(net.weights, key=lambda it: it.path):
        if len(weight.shape) == 1:
            ones = weight.path.endswith(("gamma", "variance"))
            weight.assign(ones + drawn.uniform(-0.2, 0.2, weight.shape))
        else:
            scale = 2 / np.prod(weight.shape[:-1]) ** 0.5
            weight.assign(drawn.normal(0, scale, weight.shape))
    return net


def resnet(classes=5, activation="softmax", **fields):
    net = keras_resnet.create(
        "resnet18d",
        weights=None,
        width=8,
        classes=classes,
        classifier_activation=activation,
        **fields,
    )
    return with_drawn_weights(net)


def branched(side=16):
    """A net of others, in which a branch passes by the layer "right"."""
    layers = keras.layers
    inputs = keras.Input((side, side, 3))
    x = layers.Conv2D(8, 3, 2, activation="relu", name="left")(inputs)
    y = layers.Conv2D(8, 3, padding="same", activation="relu", name="right")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(layers.Add(name="sum")([x, y]))
    return keras.Model(
        inputs, layers.Dense(4, activation="softmax")(x), name="branched"
    )


def enlarged(maps, side):
    """Maps as `grad_cam` returns them, by Pillow."""
    maps = maps / np.maximum(maps.max((1, 2), keepdims=True), np.finfo(np.float32).tiny)
    large = [
        np.array(
            Image.fromarray(it.astype(np.float32)).resize((side, side), Image.BILINEAR)
        )
        for it in maps
    ]
    return np.stack([it / (it.max() or 1) for it in large])


def combined(features, gradients):
    """Equations 1 and 2 of the paper."""
    weights = gradients.mean((1, 2), keepdims=True)
    return np.maximum((weights * features).sum(-1), 0)


def differences(head, features, step=1e-6):
    """The gradients of all logits of an image's features, by central differences."""
    steps = step * np.eye(features.size).reshape(-1, *features.shape)
    ahead, behind = (
        head.predict(features + it, batch_size=features.size, verbose=0)
        for it in (steps, -steps)
    )
    return ((ahead - behind) / (2 * step)).T.reshape(-1, *features.shape)


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        ("stage2", "stage2_block1"),
        pytest.param("stage3_block0", "stage3_block0", marks=pytest.mark.slow),
    ],
)
def test_heat_is_that_of_finite_differences(layer, name, float64):
    net, images = resnet(activation=None), pictures(1)
    assert net.info.dtype_policy == "float64"
    tensor = net.get_layer(name).output
    features = keras.Model(net.inputs, tensor).predict(images, verbose=0)
    assert features.dtype == np.float64
    gradients = differences(keras.Model(tensor, net.outputs), features[0])
    expected = enlarged(combined(features, gradients), 32)
    assert expected.max((1, 2)).sum() >= 2  # classes that some place speaks for
    heat = [grad_cam(net, images, label, layer)[0] for label in range(5)]
    np.testing.assert_allclose(heat, expected, atol=2e-6)


def test_heat_of_the_last_maps_is_the_class_activation_map():
    """Section 3.1 of the paper: where the classifier is linear in the mean of maps."""
    net, images = resnet(), pictures(side=96)
    body = keras.Model(net.inputs, net.get_layer("stage4_block1").output)
    features = body.predict(images, verbose=0)
    assert features.shape[1:3] == (3, 3)
    labels = [0, 4, 2]
    kernel = np.array(net.get_layer("head").kernel)
    maps = np.einsum("nhwc,nc->nhw", features, kernel.T[labels])
    expected = enlarged(np.maximum(maps, 0), 96)
    np.testing.assert_allclose(grad_cam(net, images, labels), expected, atol=1e-4)


def test_heat_is_of_the_logit_and_of_each_image_alone():
    net, images = resnet(), pictures()
    heat = grad_cam(net, images, layer="stage2")
    assert heat.shape == (3, 32, 32)
    assert heat.dtype == np.float32
    assert heat.min() >= 0
    np.testing.assert_array_equal(heat.max((1, 2)), 1)
    likeliest = net.predict(images, verbose=0).argmax(1)
    logits = rebuild(net, classifier_activation=None)
    for other in (
        grad_cam(net, images.astype(np.float64), likeliest, "stage2"),
        grad_cam(logits, images, None, "stage2"),
        np.concatenate([grad_cam(net, it[None], layer="stage2") for it in images]),
    ):
        np.testing.assert_allclose(heat, other, atol=1e-4)
    other = grad_cam(net, images, (likeliest + 1) % 5, "stage2")
    assert np.abs(heat - other).max((1, 2)).min() > 0.1
    assert grad_cam(net, images[:0]).shape == (0, 32, 32)


def test_default_is_the_last_layer_before_the_pooling():
    net, images = resnet(), pictures(1, 64)
    for layer in (None, "stage4_block1"):
        np.testing.assert_allclose(
            grad_cam(net, images), grad_cam(net, images, layer=layer), atol=1e-5
        )
    short = resnet(depths=(1, 1))
    np.testing.assert_allclose(
        grad_cam(short, images),
        grad_cam(short, images, layer="stage2_block0"),
        atol=1e-5,
    )


@pytest.mark.parametrize(
    "policy_name",
    [
        "mixed_float16",
        pytest.param("mixed_bfloat16", marks=pytest.mark.slow),
        pytest.param("float16", marks=pytest.mark.slow),
    ],
)
def test_half_precision_is_computed_in_float32(policy_name, policy):
    policy(policy_name)
    half = resnet()
    policy("float32")
    assert half.info.dtype_policy == policy_name
    images = pictures(2)
    np.testing.assert_allclose(
        grad_cam(half, images, 1, "stage2"),
        grad_cam(rebuild(half), images, 1, "stage2"),
        atol=1e-5,
    )


def test_net_of_others_is_explained_at_any_layer_within():
    net = with_drawn_weights(adapt(branched(), 4, "tf", "x:branched"))
    images, labels = pictures(3, 16), [0, 3, 1]
    body, kernel = net.get_layer("body"), np.array(net.get_layer("head").kernel)
    inputs = net.get_layer("preprocessing")(images)
    for layer, name in ((None, "sum"), ("stage4", "sum"), ("right", "right")):
        # the gradient is the same at both: that of a mean
        maps = keras.Model(body.inputs, body.get_layer(name).output)(inputs)
        sums = np.einsum("nhwc,nc->nhw", np.array(maps), kernel.T[labels])
        expected = enlarged(np.maximum(sums, 0), 16)
        assert expected.max() == 1
        heat = grad_cam(net, images, labels, layer)
        np.testing.assert_allclose(heat, expected, atol=1e-4)


def nested():
    """A Sequential over a net and a Sequential."""
    layers = keras.layers
    first = keras.Sequential(
        [keras.Input((16, 16, 3)), layers.Conv2D(4, 3, name="low", activation="relu")]
    )
    second = keras.Sequential(
        [
            keras.Input((14, 14, 4)),
            layers.Conv2D(6, 3, name="high"),
            layers.ReLU(name="map"),
        ]
    )
    return keras.Sequential(
        [first, second, layers.GlobalMaxPooling2D(), layers.Dense(3)]
    )


@pytest.mark.parametrize(
    ("make", "last"),
    [
        (nested, "map"),
        (lambda: keras_resnet.baselines.AlexNet(**SMALL), "pool"),
        (lambda: application("MobileNet", alpha=0.25), "conv_pw_13_relu"),
        pytest.param(
            lambda: keras_resnet.baselines.GoogLeNet(**SMALL),
            "inception5b",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda: application("DenseNet121"), "relu", marks=pytest.mark.slow
        ),
        pytest.param(
            lambda: application("EfficientNetV2B0"),
            "top_activation",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda: application("VGG16"), "block5_pool", marks=pytest.mark.slow
        ),
    ],
)
def test_last_layer_of_other_nets_is_found(make, last):
    net = adapt(make(), 5, "included", "x:other")
    images = pictures(2, net.input_shape[1])
    heat = grad_cam(net, images, 2)
    assert heat.shape == images.shape[:3]
    np.testing.assert_allclose(heat, grad_cam(net, images, 2, last), atol=1e-5)


SMALL = {"classes": 4, "input_shape": (64, 64, 3), "alpha": 0.125}


def application(name, **fields):
    net = getattr(keras.applications, name)
    return net(weights=None, input_shape=(64, 64, 3), classes=4, **fields)


@pytest.fixture(scope="module")
def digits():
    """The released net, held-out digits and their classes."""
    pytest.importorskip("sklearn")
    from sklearn.model_selection import train_test_split

    from keras_resnet import demo

    images, labels, _ = demo.digits()
    _, held_out = train_test_split(
        np.arange(len(labels)), test_size=360, stratify=labels, random_state=0
    )
    net = keras_resnet.open_model(DIGITS)
    return net, images[held_out], labels[held_out]


def test_heat_is_on_the_digit_of_the_class(digits):
    """Of two digits side by side; 100 % of 159 pairs when this was written."""
    net, images, labels = digits
    pairs = np.concatenate([images[:180], images[180:]], 2)
    halves = np.stack([labels[:180], labels[180:]])
    differ = halves[0] != halves[1]
    for side, of_side in enumerate(halves):
        heat = grad_cam(net, pairs[differ], of_side[differ])
        left = heat[:, :, :32].sum((1, 2)) / heat.sum((1, 2))
        assert np.mean(left < 0.5 if side else left > 0.5) > 0.95


def test_hiding_the_hottest_tenth_costs_more_than_a_random_tenth(digits):
    """Of four digits on a page: pixels at random, or the same patch at a random place.

    When this was written: 0.079 of the probability, against 0.025 and 0.019.
    """
    net, images, _ = digits
    rows = [np.concatenate([images[i::4], images[i + 1 :: 4]], 2) for i in (0, 2)]
    pages = np.concatenate(rows, 1)
    probabilities = predict_probabilities(net, pages)
    likeliest = probabilities.argmax(1)[:, None]
    drawn = np.random.default_rng(0)

    def cost(heat):
        """The mean loss of probability where the hottest tenth becomes grey."""
        flat = heat.reshape(len(heat), -1)
        hottest = np.argsort(-flat, 1, kind="stable")[:, : flat.shape[1] // 10]
        hidden = pages.reshape(len(heat), -1, 3).copy()
        np.put_along_axis(hidden, hottest[..., None], np.uint8(128), 1)
        after = predict_probabilities(net, hidden.reshape(pages.shape))
        return np.take_along_axis(probabilities - after, likeliest, 1).mean()

    heat = grad_cam(net, pages)
    moved = [np.roll(it, drawn.integers(0, 64, 2), (0, 1)) for it in heat]
    assert cost(heat) > 1.5 * cost(drawn.random(heat.shape))
    assert cost(heat) > 1.5 * cost(np.stack(moved))


def explained():
    """Heat maps of nets that are the same on every backend."""
    other = with_drawn_weights(adapt(branched(), 4, "tf", "x:branched"))
    return {
        "stage1": grad_cam(resnet(), pictures(), layer="stage1"),
        "stage4": grad_cam(resnet(), pictures(2, 80), [1, 2]),
        "right": grad_cam(other, pictures(3, 16), layer="right"),
    }


@pytest.mark.slow
def test_jax_makes_the_same_maps(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import keras, numpy\n"
        "from test_explain import explained\n"
        "assert keras.backend.backend() == 'jax'\n"
        "numpy.savez('maps.npz', **explained())\n"
    )
    done = subprocess.run(
        [sys.executable, script, os.path.dirname(__file__)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "maps.npz") as theirs:
        for name, ours in explained().items():
            np.testing.assert_allclose(theirs[name], ours, atol=1e-3, err_msg=name)


def shared():
    """A net that computes one of its layers twice."""
    layers = keras.layers
    inputs = keras.Input((16, 16, 3))
    twice = layers.Conv2D(3, 3, padding="same", name="twice")
    x = layers.GlobalAveragePooling2D()(twice(twice(inputs)))
    return adapt(keras.Model(inputs, layers.Dense(2)(x)), 2, "tf", "x:shared")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"layer": "stage5"}, r"layer='stage5': resnet18d has no .* stage4"),
        ({"layer": "pool"}, r"layer='pool': .* output \[N, H, W, C\]; give another"),
        ({"layer": "stage2_block9"}, "such as stage2_block1, stage2_block0, "),
        ({"classes": 5}, "classes=5: must be indices from 0 to 4"),
        ({"classes": -1}, "classes=-1: must be indices"),
        ({"classes": True}, "classes=True: must be None, an index, or one for each"),
        ({"classes": [0, 1]}, "one for each of the 3 images"),
        ({"classes": "cat"}, "classes='cat': must be None"),
        ({"images": pictures()[0]}, r"images: \(32, 32, 3\); must be \[N, H, W, 3\]"),
        ({"images": pictures()[:, :0]}, r"images: \(3, 0, 32, 3\)"),
        ({"images": pictures() > 9}, "images: of dtype bool; must be real numbers"),
        ({"images": pictures() * np.nan}, "images: resnet18d computes .* not finite"),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    with pytest.raises(ValueError, match=words) as caught:
        grad_cam(
            **{"model": resnet(depths=(1, 2, 1, 1)), "images": pictures()} | arguments
        )
    ours = isinstance(caught.value, (DataError, ModelError))
    assert ours == ("classes" not in arguments)
    assert "\n" not in str(caught.value)


def test_models_that_cannot_be_explained_are_named():
    images = pictures(1)
    with pytest.raises(ModelError, match="cannot be explained; give what open_model"):
        grad_cam("runs/flowers", images)
    with pytest.raises(ModelError, match="'branched': cannot be explained"):
        grad_cam(branched(), images)
    headless = keras_resnet.backbone("resnet18d", weights=None, width=8)
    with pytest.raises(ModelError, match="has no classifier; build it with"):
        grad_cam(headless, images)
    finder = resnet()
    finder.info = finder.info.replace(task="detect")
    with pytest.raises(ModelError, match="is for task='detect'; give a classifier"):
        grad_cam(finder, images)
    of_16 = adapt(branched(), 4, "tf", "x:branched")
    with pytest.raises(DataError, match=r"32, 3\); branched takes 16 x 16 pixels only"):
        grad_cam(of_16, images)
    with pytest.raises(ModelError, match="computes it 2 times; give a layer"):
        grad_cam(shared(), pictures(1, 16))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A .keras file of a net of three classes, and the net."""
    net = resnet(classes=3)
    net.info = net.info.replace(
        protocol=keras_resnet.Protocol(size=32), class_names=("blue", "green", "red")
    )
    path = tmp_path_factory.mktemp("saved") / "net.keras"
    net.save(path)
    return path, net


@pytest.fixture
def files(folder, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    inside = sorted(map(str, (folder / "val").glob("*/*")))
    return [inside[0], inside[-1]], str(tmp_path / "broken.png")


def test_command_draws_pictures_under_their_heat(saved, files, tmp_path, call):
    good, _ = files
    done = call("explain", saved[0], *good, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.err
    result = json.loads(done.out)
    assert result["path"] == "explained.png"
    for row, expected in zip(
        result["pictures"], keras_resnet.evaluate.predict(saved[1], good, 1)
    ):
        assert (row["file"], row["class"]) == (expected["file"], expected["classes"][0])
        assert row["probability"] == pytest.approx(expected["probabilities"][0])
    with Image.open(tmp_path / "explained.png") as grid:
        wide = np.asarray(grid.convert("RGB"), int)
    assert wide.shape[1] > 2 * wide.shape[0]  # two pairs in a row
    done = call(
        "explain", saved[0], *good, "--class", "green", "--layer", "stage1",
        "--out", "green.png", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.err
    assert done.out.count("green ") == 2
    assert "the heat maps are in green.png" in done.out
    with Image.open(tmp_path / "green.png") as grid:
        other = np.asarray(grid.convert("RGB"), int)
    assert other.shape != wide.shape or np.abs(other - wide).max() > 50


def test_file_that_is_no_picture_gets_a_row(saved, files, tmp_path, call):
    good, broken = files
    done = call("explain", saved[0], broken, good[0], "--json", cwd=tmp_path)
    assert done.returncode == 1
    bad, fine = json.loads(done.out)["pictures"]
    assert bad["file"] == broken
    assert "not a readable picture" in bad["problem"]
    assert fine["file"] == good[0]
    assert (tmp_path / "explained.png").exists()
    assert "1 of 2 files cannot be read; their rows say why" in done.err
    # the last maps of 32 pixels are 1x1
    assert "the same everywhere; give an earlier --layer" in done.err
    (tmp_path / "explained.png").unlink()
    done = call("explain", saved[0], broken, "nowhere.png", "--json", cwd=tmp_path)
    assert done.returncode == 1
    assert json.loads(done.out)["path"] is None
    assert "no such file" in done.out
    assert not (tmp_path / "explained.png").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--layer", "stage9"), "layer='stage9': resnet18d has no layer of this name"),
        (("--class", "gren"), "--class='gren': not a class of"),
    ],
)
def test_unknown_layer_or_class_is_one_line(options, words, saved, files, call):
    place = Path(files[1]).parent
    done = call("explain", saved[0], files[0][0], *options, cwd=place)
    assert done.returncode == 1
    assert done.out == ""
    assert done.err.count("\n") == 1
    assert words in done.err
    assert not (place / "explained.png").exists()


def test_grid_has_a_limit(tmp_path, call):
    done = call("explain", "resnet18d", *["x.png"] * 241, cwd=tmp_path)
    assert done.returncode == 2
    assert "241 pictures: a grid has at most 240" in done.err
