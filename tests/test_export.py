"""An export is whole, checked and numbered, or it is not there."""

import errno
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from runs import wait_for

import keras_resnet
from keras_resnet import export
from keras_resnet.backend import keras
from keras_resnet.errors import ModelError
from keras_resnet.export import exporting, publishing
from keras_resnet.export.comparing import TOLERANCES
from keras_resnet.export.description import read_description
from keras_resnet.export.engines import open_engine
from keras_resnet.export.folding import fold_batch_norm
from keras_resnet.export.savedmodel import SavedModel
from keras_resnet.model import rebuild
from keras_resnet.opening import open_model

BESIDE = {"README.md", "batching.config", "models.config"}
VERSION = {"saved_model.pb", "fingerprint.pb", "variables", "assets", "assets.extra"}


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_export_writes_numbered_versions_and_what_serving_wants(two_versions):
    assert names(two_versions / "1") == names(two_versions / "2") == VERSION
    assert names(two_versions) == {"1", "2"} | BESIDE
    assert export.versions(two_versions) == [1, 2]
    assert export.versions(two_versions / "nowhere") == []


def test_version_says_what_it_is(trained, exported, tmp_path):
    model = trained[1]
    lines = []
    export.save(model, tmp_path, precision="bfloat16", say=lines.append)
    said = read_description(tmp_path / "1")
    assert (said.format, said.precision) == ("savedmodel", "bfloat16")
    assert said.info.class_names == model.info.class_names
    assert said.info.protocol == model.info.protocol
    assert said.info.config == model.info.config
    assert 0 < said.difference <= TOLERANCES["bfloat16"]
    assert lines == [
        f"savedmodel in bfloat16: off by at most {said.difference:.1e} in the "
        "probabilities of 10 pictures"
    ]
    assert read_description(exported).difference < 1e-5
    labels = exported / "assets" / "labels.txt"
    assert labels.read_text() == "blue\ngreen\nred\n"


def test_edited_configuration_stays(trained, quick, tmp_path):
    tmp_path.joinpath("models.config").write_text("mine")
    export.save(trained[1], tmp_path)
    assert tmp_path.joinpath("models.config").read_text() == "mine"
    assert tmp_path.joinpath("batching.config").exists()


@pytest.fixture(scope="module")
def images():
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3))
    return pixels.astype(np.float32)


@pytest.mark.slow
@pytest.mark.addons
def test_model_in_float16_is_served_in_float32(trained, images, tmp_path):
    half = rebuild(trained[1], "float16")
    expected = rebuild(half, "float32").predict(images, verbose=0)
    with SavedModel(export.save(half, tmp_path)) as served:
        answers = served.run("serving_default", images=images)["probabilities"]
    np.testing.assert_allclose(answers, expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.addons
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_model_of_mixed_precision_is_served_in_float32(
    policy, trained, quick, images, tmp_path
):
    half = rebuild(trained[1], policy)
    expected = trained[1].predict(images, verbose=0)
    assert np.abs(half.predict(images, verbose=0) - expected).max() > 1e-5
    written = fold_batch_norm(half).predict(images, verbose=0)
    np.testing.assert_allclose(written, expected, atol=1e-5)
    export.save(half, tmp_path)  # which compares with the model in float32


@pytest.mark.addons
def test_logits_are_served_as_probabilities(trained, quick, tmp_path, monkeypatch):
    images = np.full((2, 32, 32, 3), 90, np.float32)
    expected = trained[1].predict(images, verbose=0)
    copy, given = exporting._write, []

    def write(model, *arguments):
        given.append(model)
        return copy(model, *arguments)

    monkeypatch.setattr(exporting, "_write", write)
    for activation in (None, "linear"):
        model = rebuild(trained[1], classifier_activation=activation)
        with open_engine(export.save(model, tmp_path)) as engine:
            served = engine.predict_on_batch(images)
        written = given.pop().predict_on_batch(images)
        for answers in (served, written):
            np.testing.assert_allclose(answers, expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("activation", [None, "linear"])
def test_exported_net_of_logits_gives_probabilities(activation, trained, tmp_path):
    model = rebuild(trained[1], classifier_activation=activation)
    images = np.full((2, 32, 32, 3), 90, np.float32)
    with open_engine(export.save(model, tmp_path)) as engine:
        served = engine.predict_on_batch(images)
    expected = trained[1].predict(images, verbose=0)
    np.testing.assert_allclose(served, expected, atol=1e-5)


@pytest.mark.slow
def test_merged_lora_is_exported(trained, images, tmp_path):
    model = rebuild(trained[1])
    head = model.get_layer("head")
    head.enable_lora(2)
    kernel = head.lora_kernel_b
    kernel.assign(np.random.default_rng(0).normal(size=kernel.shape))
    model.save(tmp_path / "merged.keras")
    merged = open_model(tmp_path / "merged.keras")
    with SavedModel(export.save(merged, tmp_path / "served")) as served:
        answers = served.run("serving_default", images=images)["probabilities"]
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(answers, expected, atol=1e-5)


@pytest.mark.parametrize("step", ["_write", "_write_for_serving", "publish"])
def test_interrupted_export_leaves_the_versions_that_were(
    step, trained, quick, place, monkeypatch
):
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(exporting, step, fail)
    with pytest.raises(KeyboardInterrupt):
        export.save(trained[1], place)
    assert names(place) - BESIDE == {"1"}
    after = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    assert before.items() <= after.items()


@pytest.mark.addons
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_export_that_answers_otherwise_than_the_model_given_is_refused(
    policy, trained, quick, tmp_path
):
    model = rebuild(trained[1], policy)
    model.get_layer("stage1_block0").conv1.norm.epsilon = 10.0
    with pytest.raises(ModelError, match=r"probabilities are off by .* on 10 pictures"):
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
        rebuild(fold_batch_norm(merged))  # as an export does


def test_random_weights_are_named_in_a_line(
    trained, quick, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(exporting.comparing, "check", lambda *_: 0.0)
    bare = keras_resnet.create("resnet18d", width=8, depths=(1,), classes=3)
    bare.info = bare.info.replace(protocol=trained[1].info.protocol)
    export.save(bare, tmp_path)
    words = r"resnet18d: its weights are random, .* as in resnet18d:WEIGHTS\n"
    assert re.fullmatch(words, capsys.readouterr().err)
    export.save(trained[1], tmp_path)
    assert capsys.readouterr().err == ""


def test_own_pictures_are_compared(trained, quick, folder, tmp_path):
    lines = []
    files = sorted((folder / "val" / "red").iterdir())
    export.save(trained[1], tmp_path, pictures=files, say=lines.append)
    assert f"of {len(files)} pictures" in lines[0]
    with pytest.raises(keras_resnet.DataError, match=r"none.jpg: no such file"):
        export.save(trained[1], tmp_path, pictures=[folder / "none.jpg"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"format": "torch"}, "format='torch': must be one of savedmodel, onnx"),
        ({"precision": "float16"}, "precision='float16' with format='savedmodel': mus"),
        (
            {"precision": "int8", "format": "onnx"},
            "precision='int8' with format='onnx': needs images to calibrate on; give",
        ),
        ({"calibrate": "photos"}, "calibrate: is for precision='int8', not 'float32'"),
        (
            {"precision": "int8", "format": "litert", "most_loss": -1},
            "most_loss=-1: must be points, from 0 to 100",
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
def test_model_without_classifier_or_normalization_is_not_served(missing, tmp_path):
    model = keras_resnet.create("resnet18d", width=8, depths=(1,), **{missing: False})
    with pytest.raises(ModelError, match="serving needs both"):
        export.save(model, tmp_path / "served")
    assert not (tmp_path / "served").exists()


TINY = {"width": 8, "depths": (1,), "zero_gamma": False, "classes": 3}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"input_shape": (None, None, 1), "include_preprocessing": False},
            "of 1 channels, but an export takes RGB; create and train it with 3",
        ),
        (
            {"input_shape": (64, 64, 3)},
            r"of 64x64 pixels only, but its protocol has size=224; set its info to .*"
            r"Protocol\(64\)\), or create it without input_shape",
        ),
        (
            {"input_shape": (64, 224, 3)},
            "of 64x224 pixels only, .* size=224; create it without input_shape",
        ),
    ],
)
def test_model_of_other_pictures_is_told_what_to_give(options, words, tmp_path):
    model = keras_resnet.create("resnet18d", **TINY, **options)
    with pytest.raises(ModelError, match=words):
        export.save(model, tmp_path / "served")
    assert not (tmp_path / "served").exists()


def test_model_of_a_fixed_size_is_exported_where_its_protocol_names_that(tmp_path):
    model = keras_resnet.create("resnet18d", **TINY, input_shape=(32, 32, 3))
    protocol = keras_resnet.Protocol(32)
    # as the message of the test above says; and names that no file of lines can hold
    names = ("a\nb", "c\r\u2028", "d")
    model.info = model.info.replace(protocol=protocol, class_names=names)
    exported = export.save(model, tmp_path)
    labels = (exported / "assets" / "labels.txt").read_text("utf8")
    assert labels.splitlines() == ["a\\nb", "c\\r\\u2028", "d"]
    assert read_description(exported).info.class_names == names


def test_other_backends_are_told(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ModelError, match=r"backend='jax': .* KERAS_BACKEND=tens"):
        export.save(trained[1], tmp_path / "served")


def test_folder_holds_one_format(trained, exported):
    with pytest.raises(ModelError, match="version 1 is of format='savedmodel'; export"):
        export.save(trained[1], exported.parent, "onnx")


def test_last_version_has_no_next(trained, quick, tmp_path):
    (tmp_path / str(2**63)).mkdir()  # that TensorFlow Serving does not read
    (tmp_path / "1").touch()  # and no folder
    (tmp_path / "0000").mkdir()
    assert export.save(trained[1], tmp_path).name == "2"
    last = tmp_path / f"00{2**63 - 1}"
    last.mkdir()
    before = names(tmp_path)
    with pytest.raises(ModelError, match=f"has version {2**63 - 1}, the last"):
        export.save(trained[1], tmp_path)
    assert names(tmp_path) == before


def test_disk_that_is_full_is_one_line_and_leaves_nothing(
    trained, tmp_path, monkeypatch, call
):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "labels.txt")

    with monkeypatch.context() as patch:
        patch.setattr(exporting, "_write", fail)
        with pytest.raises(ModelError, match="served: cannot be written: No space"):
            export.save(trained[1], tmp_path / "served")
    # a limit on the sizes of files stands for the disk: TensorFlow's writing fails
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        done = call("export", trained[0], tmp_path / "served", cwd=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert done.returncode == 1
    line = done.err.splitlines()[-1]
    assert line.startswith(f"keras-resnet: {tmp_path / 'served'}: cannot be written: ")
    assert "Traceback" not in done.err
    assert names(tmp_path / "served") <= BESIDE


def test_hidden_folders_of_others_stay(trained, quick, tmp_path):
    kept = [".export.mine", ".exports", ".export.abcdefgh", ".export.ABCDEFGH/version"]
    for name in kept:
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").touch()
    (tmp_path / ".export.12345678").touch()
    (tmp_path / ".export.abcd_234").symlink_to(tmp_path / ".exports")
    (tmp_path / ".export.killed_1" / "version" / "assets").mkdir(parents=True)
    (tmp_path / ".export.killed_2").mkdir()
    before = names(tmp_path)
    export.save(trained[1], tmp_path, warm_up=False)
    left = {".export.killed_1", ".export.killed_2"}
    assert names(tmp_path) == before - left | {"1"} | BESIDE
    assert all((tmp_path / name / "file").is_file() for name in kept)


def test_version_taken_meanwhile_is_left_alone(trained, quick, tmp_path, monkeypatch):
    numbers = iter([[], [1]])
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "mine").touch()
    monkeypatch.setattr(exporting, "check_versions", lambda *_: None)
    monkeypatch.setattr(publishing, "versions", lambda folder: next(numbers))
    assert export.save(trained[1], tmp_path).name == "2"
    assert names(tmp_path / "1") == {"mine"}


def test_exports_at_once_get_numbers_of_their_own(trained, quick, tmp_path):
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
from keras_resnet.opening import open_model
model = open_model(sys.argv[1])
while True:
    export.save(model, sys.argv[2])
"""


def kill_while_writing(run, folder, share):
    """Exports for ever; SIGKILL in the midst of an export.

    Args:
        share: of the time that the export before took to write, after which it comes.
    """
    with subprocess.Popen(
        [sys.executable, "-c", EXPORTS, run, folder],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        left = {*folder.glob(".export.*")}  # of those that were killed before
        try:
            while True:
                wait_for(lambda: is_partial(folder, left))
                start = time.monotonic()
                wait_for(lambda: not is_partial(folder, left))
                seconds = share * (time.monotonic() - start)
                wait_for(lambda: is_partial(folder, left))
                time.sleep(seconds)
                process.send_signal(signal.SIGSTOP)
                if is_partial(folder, left):  # and it can be published no more
                    return
                process.send_signal(signal.SIGCONT)
        finally:
            process.kill()


def is_partial(folder, left):
    return any(it.parent not in left for it in folder.glob(".export.*/version"))


def assert_all_whole(folder):
    for number in export.versions(folder):
        version = folder / str(number)
        assert names(version) == VERSION
        json.loads((version / "assets" / "model.json").read_text())
        with SavedModel(version) as served:
            images = np.zeros((1, 32, 32, 3), np.float32)
            assert served.run("serving_default", images=images)


@pytest.mark.slow
def test_killed_export_leaves_no_number_that_is_not_whole(trained, tmp_path):
    draw = random.Random(20)
    for _ in range(20):
        kill_while_writing(trained[0], tmp_path, draw.uniform(0, 0.9))
        assert any(name.startswith(".export.") for name in names(tmp_path))
        assert_all_whole(tmp_path)
        for number in export.versions(tmp_path)[:-1]:
            shutil.rmtree(tmp_path / str(number))
    export.save(trained[1], tmp_path)
    assert not [name for name in names(tmp_path) if name.startswith(".")]


def test_every_file_is_readable_by_a_server_of_another_user(exported):
    for path in [exported, *exported.rglob("*")]:
        assert os.stat(path).st_mode & 0o044 == 0o044, path
