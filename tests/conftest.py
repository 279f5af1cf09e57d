"""Small real data: coloured pictures in a folder of classes, and a tiny run."""

import contextlib
import functools
import gc
import io
import json
import os
import shutil
import signal
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from keras_resnet import onednn

# a shell makes what it starts in the background ignore Ctrl-C, and that is inherited
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# before TensorFlow is imported: its start-up log is not what a test says
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
onednn.choose()  # as the command line, whose answers are compared with ours

import tensorflow as tf  # noqa: E402

from keras_resnet.backend import keras  # noqa: E402
from keras_resnet.config import VARIANTS  # noqa: E402


def pytest_collection_finish():
    """Looks for garbage less often, and never among what was imported."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


COLOURS = {"blue": (30, 60, 220), "green": (40, 200, 60), "red": (220, 50, 40)}


def variants(most=16):
    """Every variant as a parameter; nets of more than `most` blocks are slow."""
    return [
        pytest.param(name, marks=pytest.mark.slow if sum(config.depths) > most else ())
        for name, config in VARIANTS.items()
    ]


def narrow(variant):
    """The least width that a variant may have, of powers of two from 8."""
    for width in (8, 16, 32, 64):
        with contextlib.suppress(ValueError):
            VARIANTS[variant].replace(width=width)
            return width
    raise AssertionError(variant)


def page_text(page):
    """A page of the site as Markdown; of a notebook all but its outputs."""
    text = page.read_text(encoding="utf-8")
    if page.suffix != ".ipynb":
        return text
    fences = {"markdown": "{}", "code": "```python\n{}\n```"}
    cells = json.loads(text)["cells"]
    return "\n\n".join(
        fences[cell["cell_type"]].format("".join(cell["source"])) for cell in cells
    )


@pytest.fixture
def policy():
    """Sets a dtype policy, and puts the former one back."""
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


@pytest.fixture
def float64(policy):
    """All of Keras in float64."""
    keras.backend.set_floatx("float64")
    policy("float64")
    yield
    keras.backend.set_floatx("float32")


def write_picture(path, colour, seed, size=(40, 36)):
    noise = np.random.default_rng(seed).normal(0, 12, (*size, 3))
    pixels = np.clip(np.asarray(colour) + noise, 0, 255).astype(np.uint8)
    encode = tf.io.encode_png if path.suffix == ".png" else tf.io.encode_jpeg
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(pixels).numpy())


def write_folder(root, train=12, val=4):
    for split, count in (("train", train), ("val", val)):
        for number, (name, colour) in enumerate(COLOURS.items()):
            for index in range(count):
                kind = "png" if index % 3 == 0 else "jpg"
                seed = 1000 * number + index + 500 * (split == "val")
                write_picture(root / split / name / f"{index:03d}.{kind}", colour, seed)
    return root


def load_one(encoded, recipe, seed):
    """A training picture, its crop of the same seed."""
    return loader(json.dumps(recipe.to_dict()))(tf.convert_to_tensor(encoded), seed)


@functools.cache
def loader(recipe):
    """`load_train` of a recipe's JSON, traced once for all pictures."""
    from keras_resnet.data.transforms.random_crop import draw_crops, load_train
    from keras_resnet.recipe import Recipe

    recipe = Recipe.from_dict(json.loads(recipe))

    @tf.function(reduce_retracing=True)
    def load(encoded, seed):
        return load_train(encoded, recipe, draw_crops(recipe, 1, seed)[0], seed)

    return load


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A folder of three classes, 12 training and 4 validation pictures each."""
    return write_folder(tmp_path_factory.mktemp("pictures") / "colours")


@pytest.fixture
def own_folder(tmp_path):
    """The same, for a test that spoils it."""
    return write_folder(tmp_path / "colours", train=6, val=2)


@pytest.fixture(scope="session")
def tiny():
    """A recipe that learns the colours in seconds, with every augmentation on."""
    from keras_resnet.recipe import Recipe

    return Recipe(
        name="tiny",
        model="resnet18d",
        overrides={"width": 8, "depths": [1, 1], "drop_path": 0.1},
        precision="float32",
        train_size=32,
        test_size=32,
        min_area=0.5,
        colour=0.1,
        batch_size=8,
        epochs=3,
        base_rate=1.0,
        warmup_epochs=1.0,
    )


@pytest.fixture(scope="session")
def trained(folder, tiny, tmp_path_factory):
    """(run directory, model) of one tiny training."""
    from keras_resnet import train

    run = tmp_path_factory.mktemp("runs") / "tiny"
    return run, train.fit(tiny, folder, run)


@pytest.fixture(scope="session")
def data():
    """Arrays of noise, for runs of `resume_program.RECIPE`."""
    from resume_program import pictures

    return pictures()


@pytest.fixture(scope="session")
def peace(data, tmp_path_factory):
    """All that an undisturbed run of these comes to."""
    from resume_program import RECIPE
    from runs import final

    from keras_resnet import train

    run = tmp_path_factory.mktemp("peace") / "run"
    train.fit(RECIPE, data, run)
    return final(run)


def command(*arguments, cwd):
    """Runs the command line in this process, where native logs cannot be kept off."""
    from keras_resnet import cli

    words = [str(a).replace("\0", " ") for a in arguments]
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["keras-resnet", *words])
        patch.chdir(cwd)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                cli.main()
            except SystemExit as exit_:
                code = exit_.code
    return SimpleNamespace(returncode=code, out=out.getvalue(), err=err.getvalue())


@pytest.fixture
def call():
    """The command line, run in this process."""
    return command


@pytest.fixture(scope="session")
def two_versions(trained, tmp_path_factory):
    """A model folder of two SavedModels that answer differently; only to be read."""
    from keras_resnet import export
    from keras_resnet.model import rebuild

    folder = tmp_path_factory.mktemp("served") / "my colours"
    export.save(trained[1], folder)
    other = rebuild(trained[1], "float32", classifier_activation="softmax")
    head = other.get_layer("head")
    head.kernel.assign(-head.kernel)
    export.save(other, folder)
    return folder


@pytest.fixture(scope="session")
def exported(two_versions):
    """The SavedModel of the tiny trained net; only to be read."""
    return two_versions / "1"


@pytest.fixture
def place(exported, tmp_path):
    """A model folder of that version alone, for a test that changes it."""
    shutil.copytree(exported, tmp_path / "colours" / "1")
    return tmp_path / "colours"


@pytest.fixture
def quick(exported, monkeypatch):
    """Makes `export.save` write a copy of `exported`, which it checks as usual."""
    from keras_resnet.export import exporting

    def write(model, version, *_):
        shutil.copytree(exported, version, ignore=lambda *_: ["assets.extra"])
        return version / "assets"

    monkeypatch.setattr(exporting, "_write", write)


@pytest.fixture(scope="session")
def exports(trained, exported, folder, tmp_path_factory):
    """{(format, precision): DIR} of the tiny trained net, each with version 1.

    LiteRT's int8 is that of weights alone, and the others' is calibrated.
    """
    from keras_resnet.export import converters, formats, quantizing, signatures
    from keras_resnet.export.description import write_description
    from keras_resnet.export.folding import fold_batch_norm

    root, folders, model = tmp_path_factory.mktemp("exports"), {}, trained[1]
    calibration = converters.Calibration(quantizing.divide(folder, model)[0])
    for kind, precisions in formats.FORMATS.items():
        for precision in precisions:
            version = root / f"{kind}-{precision}" / "1"
            folders[kind, precision] = version.parent
            version.parent.mkdir()
            if (kind, precision) == ("savedmodel", "float32"):
                shutil.copytree(exported, version)
            elif kind == "savedmodel":
                net = fold_batch_norm(model, precision)
                signatures.write_saved_model(net, version)
                write_description(version / "assets", model.info, kind, precision)
            else:
                version.mkdir()
                calibrated = precision == "int8" and kind != "litert"
                some = calibration if calibrated else None
                converters.write(model, version, kind, precision, some)
                write_description(version, model.info, kind, precision)
    return folders


@pytest.fixture(scope="module")
def served(exported):
    """The exported net as the server's own loader has it."""
    from keras_resnet.export.savedmodel import SavedModel

    with SavedModel(exported) as model:
        yield model


@pytest.fixture(scope="module")
def shared(exported, tmp_path_factory):
    """A server of the exported net for the tests that only ask."""
    from serving import serving

    from keras_resnet.serve import Settings

    folder = tmp_path_factory.mktemp("served") / "colours"
    shutil.copytree(exported, folder / "1")
    limits = {"max_body": 4_000_000, "max_rows": 40}
    limits |= {"max_pixels": 10_000, "max_request_pixels": 15_000}
    with serving(folder, Settings("colours", **limits)) as client:
        yield client


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium, whose console and requests are kept."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for word in ("headless=new", "no-sandbox", "disable-dev-shm-usage"):
        options.add_argument(f"--{word}")
    options.add_argument("--window-size=960,640")
    logs = {"browser": "ALL", "performance": "ALL"}
    options.set_capability("goog:loggingPrefs", logs)
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options, service)
    yield driver
    driver.quit()
