"""Nets of other libraries: trained by a recipe, evaluated, exported like our own."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from runs import stop

import keras_resnet
from keras_resnet import ModelError, RecipeError, WeightsError, evaluate, export, train
from keras_resnet.backend import keras
from keras_resnet.export.engines import open_engine
from keras_resnet.opening import open_model
from keras_resnet.recipes import RECIPES

RECIPE = RECIPES["smoke"].replace(
    overrides={}, mixup=0.2, label_smoothing=0.1, batch_size=18, epochs=1, flip=0.5
)
# net of keras.applications -> its least side
APPLICATIONS = {
    "MobileNet": 32,
    "VGG16": 32,
    "ResNet50": 32,
    "DenseNet121": 32,
    "InceptionV3": 75,
    "MobileNetV3Small": 32,
    "EfficientNetV2B0": 32,
    "ConvNeXtTiny": 32,
}


def of_side(side, **fields):
    return RECIPE.replace(train_size=side, test_size=side, **fields)


def sequential(classes=5, activation="softmax", side=32):
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((side, side, 3)),
            layers.Conv2D(8, 3, 2, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(classes, activation=activation),
        ]
    )


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    """The run of a user's Sequential."""
    run = tmp_path_factory.mktemp("others") / "run"
    train.fit(RECIPE, folder, run, model=sequential(), preprocessing="tf")
    return run


def check_run(run, folder, place):
    """What is asked of the run of any net, evaluated, predicted and exported."""
    model = open_model(run)
    measured = evaluate.run(model, folder)
    predicted = evaluate.predict(model, [folder / "val"], top=1)
    right = [row["classes"][0] in row["file"] for row in predicted]
    assert measured["examples"] == len(right) == 12
    assert measured["top1"] == pytest.approx(np.mean(right))
    version = export.save(model, place)  # which its own runtime checks
    with open_engine(version) as engine:
        served = evaluate.predict(engine, [folder / "val"], top=1)
    np.testing.assert_allclose(
        [row["probabilities"] for row in served],
        [row["probabilities"] for row in predicted],
        atol=1e-5,
    )


def test_sequential_is_trained_evaluated_and_exported(run, folder, tmp_path):
    check_run(run, folder, tmp_path)
    info = open_model(run).info
    assert (info.variant, info.config) == ("given:sequential", None)
    assert info.class_names == ("blue", "green", "red")
    again = train.fit(RECIPE, folder, run, model=sequential(), preprocessing="tf")
    assert again.info == info


@pytest.mark.slow
@pytest.mark.parametrize("name", APPLICATIONS)
def test_application_is_trained_evaluated_and_exported(name, folder, tmp_path):
    recipe = of_side(APPLICATIONS[name], model=f"applications:{name}")
    train.fit(recipe, folder, tmp_path / "run")
    check_run(tmp_path / "run", folder, tmp_path / "served")


@pytest.mark.slow
def test_stopped_run_resumes_to_the_very_same_weights(folder, tmp_path):
    recipe = RECIPE.replace(
        model="applications:MobileNet", batch_size=6, epochs=2, ema=0.9
    )
    whole, run = tmp_path / "whole", tmp_path / "run"
    expected = train.fit(recipe, folder, whole)
    stop(folder, run, ("batch begin", 1, 1), recipe=recipe)
    again = train.fit(recipe, folder, run)
    for ours, theirs in zip(again.get_weights(), expected.get_weights()):
        np.testing.assert_array_equal(ours, theirs)
    averages = [open_model(it / "model_ema.keras").get_weights() for it in (run, whole)]
    for ours, theirs in zip(*averages):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_gives_float32(precision, folder, tmp_path):
    recipe = RECIPE.replace(precision=precision)
    model = train.fit(
        recipe, folder, tmp_path / "run", model=sequential(), preprocessing="included"
    )
    convolution = model.get_layer("body").layers[1]
    assert convolution.compute_dtype == precision.removeprefix("mixed_")
    assert model(np.zeros((1, 32, 32, 3))).dtype == "float32"


@pytest.mark.slow
def test_teacher_and_student_may_be_of_either_kind(run, folder, trained, tmp_path):
    fields = {"temperature": 4.0, "mixup": 0.0}
    recipe = RECIPE.replace(teacher=str(run), overrides={"width": 8}, **fields)
    assert train.fit(recipe, folder, tmp_path / "ours").info.config is not None
    recipe = RECIPE.replace(teacher=str(trained[0]), **fields)
    model = train.fit(
        recipe, folder, tmp_path / "theirs", model=sequential(), preprocessing="tf"
    )
    assert model.info.config is None


@pytest.mark.slow
def test_file_of_a_user_builds_the_net(folder, tmp_path):
    (tmp_path / "nets.py").write_text(
        "import keras\n"
        "def small(classes):\n"
        "    x = keras.Input((None, None, 3))\n"
        "    y = keras.layers.Conv2D(4, 3)(x)\n"
        "    y = keras.layers.GlobalAveragePooling2D()(y)\n"
        "    return keras.Model(x, keras.layers.Dense(classes)(y))\n"
    )
    recipe = RECIPE.replace(
        model=f"{tmp_path / 'nets.py'}:small", preprocessing="torch", test_size=48
    )
    model = train.fit(recipe, folder, tmp_path / "run")
    assert model.input_shape == (None, None, None, 3)
    assert evaluate.run(model, folder)["examples"] == 12


@pytest.mark.parametrize(
    ("preprocessing", "expected"),
    [
        ("included", lambda x: x),
        ("caffe", lambda x: x[..., ::-1] - [103.939, 116.779, 123.68]),
        ("tf", lambda x: x / 127.5 - 1),
        ("torch", lambda x: (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]),
        (((0.5, 0.4, 0.3), (0.1, 0.2, 0.3)), None),
        (0.5, None),
    ],
)
def test_pixels_are_normalized_as_keras_applications_does(preprocessing, expected):
    from keras_resnet.classifier import adapt

    x = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3)).astype("float32")
    if preprocessing == 0.5:
        preprocessing, expected = keras.layers.Rescaling(0.5), lambda x: x * 0.5
    elif expected is None:
        mean, std = preprocessing

        def expected(x):
            return (x / 255 - mean) / std

    net = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    adapted = adapt(net, 192, preprocessing, "given:net")
    kernel = np.eye(192, dtype="float32")
    adapted.get_layer("head").set_weights([kernel, np.zeros(192, "float32")])
    ours = adapted.predict_on_batch(x).reshape(x.shape)
    np.testing.assert_allclose(ours, expected(x), rtol=1e-5, atol=1e-4)


def two_outputs():
    x = keras.Input((32, 32, 3))
    y = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(x, [keras.layers.Dense(2)(y), keras.layers.Dense(2)(y)])


def with_lambda():
    x = keras.Input((32, 32, 3))
    y = keras.layers.Lambda(lambda z: z * 2)(x)
    y = keras.layers.GlobalAveragePooling2D()(y)
    return keras.Model(x, keras.layers.Dense(2)(y))


def without_head():
    x = keras.Input((32, 32, 3))
    return keras.Model(x, keras.layers.Conv2D(4, 3)(x))


def pooled_alone():
    x = keras.Input((32, 32, 3))
    y = keras.layers.BatchNormalization()(x)
    return keras.Model(x, keras.layers.GlobalAveragePooling2D()(y))


def channels_first():
    x = keras.Input((32, 32, 3))
    y = keras.layers.GlobalAveragePooling2D(data_format="channels_first")(x)
    return keras.Model(x, keras.layers.Dense(2)(y))


@pytest.mark.parametrize(
    ("make", "preprocessing", "words"),
    [
        (two_outputs, "tf", "has 2 outputs"),
        (with_lambda, "tf", "has the Lambda layer 'lambda.*whose code no file holds"),
        (without_head, "tf", "add a classifier"),
        (pooled_alone, "tf", "must end in a dense layer"),
        (channels_first, "tf", "is channels_first"),
        (sequential, None, "preprocessing=None: must say what sequential.* expects"),
        (sequential, "imagenet", "preprocessing='imagenet': must say"),
        (
            lambda: sequential(side=48),
            "tf",
            "takes 48 x 48 pixels; give that size",
        ),
        (lambda: object(), "tf", "must be a keras.Model"),
    ],
)
def test_what_cannot_be_trained_is_one_error_before_anything_is_written(
    make, preprocessing, words, folder, tmp_path
):
    model = make()
    model = model if isinstance(model, keras.Model) else lambda classes: object()
    with pytest.raises((ModelError, RecipeError), match=words):
        train.fit(
            RECIPE, folder, tmp_path / "run", model=model, preprocessing=preprocessing
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model": "applications:ResNet18"}, "must be a classifier of keras.appl"),
        ({"model": "applications:InceptionV3"}, "takes 75 pixels at least"),
        ({"model": "nowhere.py:net"}, "no such file"),
        ({"model": "other:net"}, "applications:NAME, or FILE.py:FUNCTION"),
        ({"weights": "imagenet"}, "load them where the model is built"),
        ({"stage_rates": [0, 1]}, "no stages"),
        ({"freeze_statistics": True}, "set `trainable`"),
        ({"remat": "stages"}, "a larger `accumulate`"),
        ({"overrides": {"width": 8}}, "width is not for"),
    ],
)
def test_fields_that_such_a_net_cannot_have_are_named(fields, words, folder, tmp_path):
    recipe = RECIPE.replace(**{"model": "applications:MobileNet", **fields})
    with pytest.raises(RecipeError, match=words):
        train.fit(recipe, folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_builder_that_fails_is_one_line(folder, tmp_path):
    def offline(classes):
        raise OSError("URL fetch failure on\nhttps://example.org")

    words = r"model='given:offline': cannot be built for 3 classes \(URL fetch failure"
    with pytest.raises(ModelError, match=words):
        train.fit(RECIPE, folder, tmp_path / "run", model=offline, preprocessing="tf")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_auxiliary_heads_of_googlenet_are_trained_and_resumed(folder, tmp_path):
    def googlenet(classes):
        return keras_resnet.baselines.GoogLeNet(classes=9, input_shape=(32, 32, 3))

    model = train.fit(
        RECIPE.replace(precision="float32"),
        folder,
        tmp_path / "run",
        model=googlenet,
        preprocessing="torch",
    )
    heads = [model.get_layer(name) for name in ("aux1", "aux2")]
    assert [head.fc2.kernel.shape[-1] for head in heads] == [3, 3]
    # biases start at zero, and only a loss of the head moves them
    assert all(np.any(head.fc2.bias) for head in heads)
    assert evaluate.run(open_model(tmp_path / "run"), folder)["examples"] == 12
    # where nobody has imported the baselines
    opens = (
        "import sys; from keras_resnet.opening import open_model as o; o(sys.argv[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", opens, tmp_path / "run"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_tricks_of_our_nets_are_noted(folder, tmp_path, capsys):
    recipe = RECIPE.replace(
        overrides={"zero_gamma": False, "mean": [0.5] * 3, "std": [0.5] * 3},
        initializer="xavier",
    )
    train.fit(recipe, folder, tmp_path / "run", model=sequential(), preprocessing="tf")
    assert (
        "given:sequential: without overrides mean, std, zero_gamma and "
        "initializer=xavier of the recipe"
    ) in capsys.readouterr().err


def test_preprocessing_without_a_model_is_refused(folder, tmp_path):
    with pytest.raises(RecipeError, match="preprocessing='tf': is of `model`"):
        train.fit(RECIPE, folder, tmp_path / "run", preprocessing="tf")


def test_file_from_elsewhere_is_not_built(run, tmp_path):
    shutil.copy(run / "model.keras", tmp_path / "model.keras")
    with pytest.raises(ModelError, match="does not say that training wrote it"):
        open_model(tmp_path / "model.keras")
    shutil.copytree(run, tmp_path / "run")
    finished = tmp_path / "run" / "finished.json"
    facts = json.loads(finished.read_text())
    facts["sha256"]["model.keras"] = "0" * 64
    finished.write_text(json.dumps(facts))
    with pytest.raises(ModelError, match="does not say that training wrote it"):
        open_model(tmp_path / "run")
    with pytest.raises(WeightsError, match="is of given:sequential"):
        keras_resnet.create("resnet18d", weights=run / "model.keras")


def test_bfloat16_needs_a_net_of_this_package(run, tmp_path):
    with pytest.raises(ModelError, match="is not a net of this package"):
        export.save(open_model(run), tmp_path, precision="bfloat16")


def test_other_formats_are_written(run, tmp_path):
    version = export.save(open_model(run), tmp_path, "onnx")
    assert (version / "model.onnx").is_file()
