"""Hostile weights files are refused: nothing runs or is written, memory is bounded.

Each family of tests/hostile_files.py is read in one process with a limit on its memory.
"""

import io
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import safetensors.numpy
import sandbox
import tensorflow as tf
import weight_files
from hostile_files import ATTACKS, FAMILIES
from weight_files import pickled

SANDBOX = Path(__file__).with_name("sandbox_tensorflow.py")
GROWTH = 2**27  # bytes that a refusal may cost
CASES = [(family, case) for family, cases in FAMILIES.items() for case in cases]


@pytest.fixture(scope="module")
def reading(tmp_path_factory):
    """family -> (its folder, {case: Answer}), each read once."""
    done = {}

    def read(family):
        if family not in done:
            folder = tmp_path_factory.mktemp("hostile")
            suffix = Path(family).suffix
            paths = {}
            for number, (case, (write, _)) in enumerate(FAMILIES[family].items()):
                paths[case] = folder / f"{number}{suffix}"
                write(paths[case])
            answers = sandbox.attempt(list(paths.values()))
            done[family] = folder, {case: answers[path] for case, path in paths.items()}
        return done[family]

    return read


@pytest.mark.parametrize(("family", "case"), CASES)
def test_a_hostile_file_is_refused_with_the_reason(family, case, reading):
    answer = reading(family)[1][case]
    assert answer.outcome == "refused", answer.said
    assert re.search(FAMILIES[family][case][1], answer.said), answer.said
    assert answer.grown < GROWTH


@pytest.mark.parametrize("family", FAMILIES)
def test_reading_runs_nothing_and_writes_nothing(family, reading):
    folder, answers = reading(family)
    names = {path.name for path in folder.iterdir()}
    assert names == {f"{n}{Path(family).suffix}" for n in range(len(answers))}


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_attacks_are_real(attack, tmp_path):
    """Negative control: Python's own unpickler runs them."""
    program = (
        "import pickle, sys\ntry: pickle.load(sys.stdin.buffer)\nexcept Exception: 0"
    )
    body = pickled(ATTACKS[attack], 4)
    subprocess.run(
        [sys.executable, "-c", program], input=body, cwd=tmp_path, check=True
    )
    assert (tmp_path / "canary").exists()


def test_the_memory_that_reading_takes_is_seen(tmp_path):
    """Negative control of the bound on memory."""
    np.savez(tmp_path / "it.npz", x=np.ones(2**23, np.float32))
    (answer,) = sandbox.attempt([tmp_path / "it.npz"]).values()
    assert answer.outcome == "read"
    assert 2**25 <= answer.grown < 2**26


def keras_layer(kind, **config):
    return {"module": "keras.layers", "class_name": kind, "config": config}


@pytest.mark.parametrize(
    "layer",
    [
        keras_layer("Lambda", function={"class_name": "__lambda__", "config": {}}),
        keras_layer("TFSMLayer", filepath="/nowhere"),
        keras_layer("TorchModuleWrapper", module="gASVAA=="),
        keras_layer("StringLookup", vocabulary="/etc/passwd"),
        {"module": "os", "class_name": "system", "config": {"command": "touch canary"}},
    ],
    ids=lambda layer: layer["class_name"],
)
def test_the_config_of_a_keras_archive_is_never_looked_at(layer, tmp_path):
    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        file["vars/0"] = np.ones(3, np.float32)
    with zipfile.ZipFile(tmp_path / "it.keras", "w") as file:
        file.writestr("config.json", json.dumps(layer))
        file.writestr("assets/vocabulary.txt", "x")
        file.writestr("model.weights.h5", image.getvalue())
    (answer,) = sandbox.attempt([tmp_path / "it.keras"]).values()
    assert (answer.outcome, answer.said) == ("read", "vars/0")
    assert [path.name for path in tmp_path.iterdir()] == ["it.keras"]


# mutations

TENSORS = {
    "conv.weight": np.linspace(-1, 1, 54, dtype=np.float32).reshape(2, 3, 3, 3),
    "bn.running_var": np.full(2, 0.5, np.float32),
    "half": np.arange(6, dtype=np.float16),
}


def write_hdf5(path, tensors):
    with h5py.File(path, "w") as file:
        for name, array in tensors.items():
            file[name.replace(".", "/")] = array


def write_keras(path, tensors):
    image = io.BytesIO()
    write_hdf5(image, tensors)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("config.json", "{}")
        file.writestr("model.weights.h5", image.getvalue())


def npz(save):
    def write(path, tensors):
        with path.open("wb") as file:
            save(file, **tensors)

    return write


def paddle(protocol):
    return lambda path, tensors: weight_files.write_paddle(path, tensors, protocol)


WRITERS = {
    "safetensors": lambda path, tensors: safetensors.numpy.save_file(tensors, path),
    "torch": weight_files.write_torch,
    "mxnet": weight_files.write_mxnet,
    "paddle-2": paddle(2),
    "paddle-4": paddle(4),
    "paddle-5": paddle(5),
    "npz": npz(np.savez),
    "npz-deflated": npz(np.savez_compressed),
    "hdf5": write_hdf5,
    "keras": write_keras,
}


def assert_survives(kind, count, folder):
    WRITERS[kind](folder / "it", TENSORS)
    tally = sandbox.fuzz(folder / "it", count)
    assert tally["escaped"] == []
    assert tally["read"] + tally["refused"] == count
    assert tally["refused"] > count / 10
    assert tally["grown"] < GROWTH


@pytest.mark.parametrize("kind", WRITERS)
def test_300_mutations_are_read_or_refused(kind, tmp_path):
    assert_survives(kind, 300, tmp_path)


def assert_tensorflow_survives(count, folder):
    tf.raw_ops.SaveV2(
        prefix=str(folder / "it"),
        tensor_names=list(TENSORS),
        shape_and_slices=[""] * len(TENSORS),
        tensors=[tf.constant(value) for value in TENSORS.values()],
    )
    done = subprocess.run(
        [sys.executable, SANDBOX, folder / "it", str(count)],
        stdout=subprocess.PIPE,
        timeout=60 + count,
        check=True,
    )
    tally = json.loads(done.stdout)
    assert tally["read"] + tally["refused"] == count
    assert tally["refused"] > count / 10


@pytest.mark.slow
def test_tensorflow_reads_or_refuses_300_mutations(tmp_path):
    assert_tensorflow_survives(300, tmp_path)


@pytest.mark.slow
def test_tensorflow_reads_or_refuses_10000_mutations(tmp_path):
    assert_tensorflow_survives(10_000, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", WRITERS)
def test_10000_mutations_are_read_or_refused(kind, tmp_path):
    assert_survives(kind, 10_000, tmp_path)
