"""An export is whole, checked and numbered, or it is not there."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import keras_resnet
from keras_resnet import export, formats
from keras_resnet.backend import keras
from keras_resnet.engines import open_engine, read_description
from keras_resnet.folding import fold_batch_norm
from keras_resnet.model import ModelError, rebuild
from keras_resnet.savedmodel import SavedModel
from keras_resnet.variants import open_model

BESIDE = {"README.md", "batching.config", "models.config"}
VERSION = {"saved_model.pb", "fingerprint.pb", "variables", "assets", "assets.extra"}


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    return export.save(trained[1], tmp_path_factory.mktemp("served") / "colours")


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_export_writes_numbered_versions_and_what_serving_wants(trained, exported):
    assert exported.name == "1"
    assert names(exported) == VERSION
    second = export.save(trained[1], exported.parent)
    assert second.name == "2"
    assert names(exported.parent) == {"1", "2"} | BESIDE
    assert export.versions(exported.parent) == [1, 2]
    assert export.versions(exported.parent / "nowhere") == []


def test_version_says_what_it_is(trained, exported, tmp_path):
    model = trained[1]
    lines = []
    export.save(model, tmp_path, precision="bfloat16", say=lines.append)
    said = read_description(tmp_path / "1")
    assert (said.format, said.precision) == ("savedmodel", "bfloat16")
    assert said.info.class_names == model.info.class_names
    assert said.info.protocol == model.info.protocol
    assert said.info.config == model.info.config
    assert 0 < said.difference <= formats.TOLERANCES["bfloat16"]
    assert lines == [
        f"savedmodel in bfloat16: off by at most {said.difference:.1e} in the "
        "probabilities of 10 pictures"
    ]
    assert read_description(exported).difference < 1e-5
    labels = exported / "assets" / "labels.txt"
    assert labels.read_text() == "blue\ngreen\nred\n"


def test_edited_configuration_stays(trained, tmp_path):
    tmp_path.joinpath("models.config").write_text("mine")
    export.save(trained[1], tmp_path)
    assert tmp_path.joinpath("models.config").read_text() == "mine"
    assert tmp_path.joinpath("batching.config").exists()


@pytest.mark.addons
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16"])
def test_model_of_half_precision_is_served_in_float32(policy, trained, tmp_path):
    half = rebuild(trained[1], policy)
    images = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3))
    images = images.astype(np.float32)
    with SavedModel(export.save(half, tmp_path)) as served:
        ours = served.run("serving_default", images=images)["probabilities"]
    expected = rebuild(half, "float32").predict(images, verbose=0)
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    if policy != "float16":  # whose weights are rounded, and not its answers alone
        difference = half.predict(images, verbose=0) - expected
        assert np.abs(difference).max() > 1e-5


@pytest.mark.addons
@pytest.mark.parametrize("activation", [None, "linear"])
def test_logits_are_served_as_probabilities(activation, trained, tmp_path):
    model = rebuild(trained[1], classifier_activation=activation)
    images = np.full((2, 32, 32, 3), 90, np.float32)
    with open_engine(export.save(model, tmp_path)) as engine:
        ours = engine.predict_on_batch(images)
    np.testing.assert_allclose(ours, trained[1].predict(images, verbose=0), atol=1e-5)


@pytest.mark.parametrize("step", ["_write", "_write_for_serving", "_publish"])
def test_interrupted_export_leaves_the_versions_that_were(
    step, trained, tmp_path, monkeypatch
):
    first = export.save(trained[1], tmp_path / "served")
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*")}

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(export, step, fail)
    with pytest.raises(KeyboardInterrupt):
        export.save(trained[1], tmp_path / "served")
    assert names(tmp_path / "served") == {"1"} | BESIDE
    assert before == {path: path.stat().st_mtime_ns for path in first.rglob("*")}


@pytest.mark.addons
def test_export_that_answers_otherwise_is_refused(trained, tmp_path, monkeypatch):
    def spoiled(model, precision="float32"):
        folded = fold_batch_norm(model)
        kernel = folded.get_layer("stem").conv2.conv.kernel
        kernel.assign(np.asarray(kernel) * 1.1)
        return folded

    monkeypatch.setattr(export, "fold_batch_norm", spoiled)
    with pytest.raises(ModelError, match=r"probabilities are off by .* on 10 pictures"):
        export.save(trained[1], tmp_path / "served")
    assert names(tmp_path / "served") == set()


@pytest.mark.addons
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_export_is_compared_with_the_model_that_was_given(policy, trained, tmp_path):
    model = rebuild(trained[1], policy)
    model.get_layer("stage1_block0").conv1.norm.epsilon = 10.0
    with pytest.raises(ModelError, match="probabilities are off by"):
        export.save(model, tmp_path / "served")
    assert names(tmp_path / "served") == set()


@pytest.mark.parametrize("change", ["quantize", "enable_lora"])
def test_changed_head_is_refused_and_not_exported_as_another(change, trained, tmp_path):
    model = rebuild(trained[1])
    head = model.get_layer("head")
    if change == "quantize":
        head.quantize("int8")
    else:
        head.enable_lora(2)
        kernel = head.lora_kernel_b
        kernel.assign(np.random.default_rng(0).normal(size=kernel.shape))
    words = r"resnet18d: changed since it was built, in head/.*do this before `quantize"
    for attempt in (
        rebuild,
        fold_batch_norm,
        lambda model: export.save(model, tmp_path / "served"),
    ):
        with pytest.raises(ModelError, match=words):
            attempt(model)
    assert not (tmp_path / "served").exists()
    if change == "enable_lora":  # the way out that the error names
        model.save(tmp_path / "merged.keras")
        merged = open_model(tmp_path / "merged.keras")
        images = np.random.default_rng(1).uniform(0, 255, (2, 32, 32, 3))
        ours, theirs = (m.predict(images, verbose=0) for m in (merged, model))
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
        assert np.abs(ours - trained[1].predict(images, verbose=0)).max() > 1e-2
        export.save(merged, tmp_path / "served")


def test_random_weights_are_named_in_a_line(trained, tmp_path, capsys):
    bare = keras_resnet.create("resnet18d", width=8, depths=(1,), classes=3)
    bare.info = bare.info.replace(protocol=trained[1].info.protocol)
    export.save(bare, tmp_path)
    words = r"resnet18d: its weights are random, .* as in resnet18d:WEIGHTS\n"
    assert re.fullmatch(words, capsys.readouterr().err)
    export.save(trained[1], tmp_path)
    assert capsys.readouterr().err == ""


def test_own_pictures_are_compared(trained, folder, tmp_path):
    lines = []
    files = sorted((folder / "val" / "red").iterdir())
    export.save(trained[1], tmp_path, pictures=files, say=lines.append)
    assert f"of {len(files)} pictures" in lines[0]
    with pytest.raises(keras_resnet.data.DataError, match=r"none.jpg: no such file"):
        export.save(trained[1], tmp_path, pictures=[folder / "none.jpg"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"format": "torch"}, "format='torch': must be one of savedmodel, onnx"),
        ({"precision": "float16"}, "precision='float16' with format='savedmodel': mus"),
        (
            {"precision": "int8", "format": "onnx"},
            "precision='int8' with format='onnx': must be one of float32",
        ),
        ({"warm_up": True, "format": "onnx"}, "warm_up=True with format='onnx'"),
    ],
)
def test_what_cannot_be_exported_is_named_and_writes_nothing(
    options, words, trained, tmp_path
):
    with pytest.raises(ModelError, match=words):
        export.save(trained[1], tmp_path / "served", **options)
    assert not (tmp_path / "served").exists()


@pytest.mark.parametrize("missing", ["include_top", "include_preprocessing"])
def test_model_without_classifier_or_normalisation_is_not_served(missing, tmp_path):
    model = keras_resnet.create("resnet18d", width=8, **{missing: False})
    with pytest.raises(ModelError, match="serving needs both"):
        export.save(model, tmp_path / "served")
    assert not (tmp_path / "served").exists()


def test_other_backends_are_told(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ModelError, match=r"backend='jax': .* KERAS_BACKEND=tens"):
        export.save(trained[1], tmp_path / "served")


def test_folder_holds_one_format(trained, exported):
    with pytest.raises(ModelError, match="version 1 is of format='savedmodel'; must"):
        export.save(trained[1], exported.parent, "onnx")


def test_version_taken_meanwhile_is_left_alone(trained, tmp_path, monkeypatch):
    numbers = iter([[], [1]])
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "mine").touch()
    monkeypatch.setattr(export, "_check_versions", lambda *_: None)
    monkeypatch.setattr(export, "versions", lambda folder: next(numbers))
    assert export.save(trained[1], tmp_path).name == "2"
    assert names(tmp_path / "1") == {"mine"}


def test_exports_at_once_get_numbers_of_their_own(trained, tmp_path):
    model = trained[1]
    taken = []
    threads = [
        threading.Thread(target=lambda: taken.append(export.save(model, tmp_path).name))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == ["1", "2", "3"]
    assert names(tmp_path) == {"1", "2", "3"} | BESIDE


EXPORTS = """
import sys
from keras_resnet import export
from keras_resnet.variants import open_model
model = open_model(sys.argv[1])
while True:
    print(export.save(model, sys.argv[2]), flush=True)
"""


def killed_after(run, folder, seconds):
    """Exports for ever; SIGKILL so long after the first was done."""
    process = subprocess.Popen(
        [sys.executable, "-c", EXPORTS, run, folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout.readline()
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def assert_all_whole(folder):
    for number in export.versions(folder):
        version = folder / str(number)
        assert names(version) == VERSION
        json.loads((version / "assets" / "model.json").read_text())
        with SavedModel(version) as served:
            images = np.zeros((1, 32, 32, 3), np.float32)
            assert served.run("serving_default", images=images)


@pytest.mark.parametrize(
    "kills", [1, pytest.param(20, marks=pytest.mark.slow)], ids=str
)
def test_killed_export_leaves_no_number_that_is_not_whole(kills, trained, tmp_path):
    draw = random.Random(kills)
    left = 0
    for _ in range(kills):
        killed_after(trained[0], tmp_path, draw.uniform(0, 2))
        left += sum(name.startswith(".export.") for name in names(tmp_path))
        assert_all_whole(tmp_path)
        for number in export.versions(tmp_path)[:-1]:
            shutil.rmtree(tmp_path / str(number))
    assert left  # some were killed halfway
    export.save(trained[1], tmp_path)
    assert not [name for name in names(tmp_path) if name.startswith(".")]


def test_every_file_is_readable_by_a_server_of_another_user(exported):
    for path in [exported, *exported.rglob("*")]:
        assert os.stat(path).st_mode & 0o044 == 0o044, path
