"""Training on several devices of a machine gives what training on one gives."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from keras_resnet import train
from keras_resnet.errors import RecipeError
from keras_resnet.recipe import Recipe
from keras_resnet.train.devices import choose
from keras_resnet.train.training import _other_statistics

PROGRAM = Path(__file__).parent / "devices_program.py"
BACKENDS = ("tensorflow", "jax")


def run_on(devices, backend, kind, out, **spec):
    """{name: array} of a program on so many logical devices, and what it printed."""
    spec = {"devices": devices, "kind": kind, "out": str(out), **spec}
    done = subprocess.run(
        [sys.executable, PROGRAM, json.dumps(spec)],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "KERAS_BACKEND": backend,
            "JAX_PLATFORMS": "cpu",
            "JAX_ENABLE_X64": str(int(kind == "steps")),
            "CUDA_VISIBLE_DEVICES": "",
        },
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(out) as arrays:
        return dict(arrays), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("backend", BACKENDS)
def test_several_devices_take_the_steps_of_one(count, backend, tmp_path):
    one, _ = run_on(1, backend, "steps", tmp_path / "1.npz")
    several, _ = run_on(count, backend, "steps", tmp_path / "several.npz")
    assert one.keys() == several.keys()
    assert {"loss", "top1", "val_loss", "val_top1"} <= one.keys()
    for name, array in one.items():
        np.testing.assert_allclose(several[name], array, atol=1e-10, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_run_goes_on_with_other_devices(backend, tmp_path):
    def extended(run, counts):
        for epochs, count in enumerate(counts, start=1):
            # a longer cosine would be another recipe
            fields = {
                "epochs": epochs,
                "warmup_epochs": 0.0,
                "schedule": "steps",
                "boundaries": [9],
                "class_weights": "balanced",
                "sampling": "balanced",
            }
            weights, said = run_on(
                count,
                backend,
                "fit",
                tmp_path / "out.npz",
                run=str(run),
                recipe=fields,
            )
            assert ("devices" in said) == (count > 1)
        history = json.loads((run / "history.json").read_text())
        return weights, history

    one, history = extended(tmp_path / "one", (1, 1, 1))
    several, of_several = extended(tmp_path / "several", (2, 1, 4))
    for name, array in one.items():
        np.testing.assert_allclose(several[name], array, atol=1e-5, err_msg=name)
    for row, other in zip(history, of_several, strict=True):
        assert row == pytest.approx(other, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_images_grow_on_several_devices_too(backend, tmp_path):
    fields = {"epochs": 2, "warmup_epochs": 0.0, "progressive_sizes": [24]}
    one, several = (
        run_on(
            count,
            backend,
            "fit",
            tmp_path / "out.npz",
            run=str(tmp_path / str(count)),
            recipe=fields,
        )[0]
        for count in (1, 2)
    )
    for name, array in one.items():
        np.testing.assert_allclose(several[name], array, atol=1e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_overflow_on_the_second_device_skips_the_step_on_both(backend, tmp_path):
    arrays, _ = run_on(2, backend, "overflow", tmp_path / "out.npz")
    assert arrays.pop("bad") == 1
    kernels, biases, scales = (
        [arrays[str(place)] for place in places] for places in ((0, 1), (2, 3), (4, 5))
    )
    assert [float(value.item()) for value in kernels] == [1.0, 1.0]
    assert [float(value.item()) for value in biases] == [0.0, 0.0]
    assert [float(value.item()) for value in scales] == [2.0, 2.0]


def test_other_statistics_are_said():
    def said(before, now):
        written = {"devices": before} if before else {}
        return _other_statistics(written, {"devices": now})

    assert said([1, "per-device"], [1, "per-device"]) == ""
    assert said([1, "synchronized"], [4, "synchronized"]) == ""
    assert said(None, [4, "per-device"]) == ""
    text = "was trained on 1 device(s) with batch statistics per-device, here they are "
    assert said([1, "per-device"], [4, "per-device"]).startswith(f"{text}per-device on")
    assert said([1, "per-device"], [4, "synchronized"]).startswith(f"{text}synchroniz")


@pytest.mark.parametrize("devices", [0, 3000, -1, "some", True, 1.5])
def test_number_of_devices_is_checked(devices, tmp_path):
    data = {
        split: (np.zeros((8, 8, 8, 3), np.uint8), np.arange(8) % 2)
        for split in ("train", "val")
    }
    with pytest.raises(RecipeError, match=r"devices=.*must be 'all' or 1 to"):
        train.fit(Recipe(batch_size=4), data, tmp_path / "run", devices=devices)
    assert not (tmp_path / "run").exists()


def test_batch_must_divide_by_the_devices(monkeypatch):
    monkeypatch.setattr("keras_resnet.train.devices._names", lambda kind: ["a", "b"])
    with pytest.raises(RecipeError, match="batches of 3 images cannot be divided by 2"):
        choose(2, Recipe(batch_size=6, accumulate=2))
    assert choose(2, Recipe(batch_size=6)).names == ("a", "b")


def test_default_is_all_gpus_or_one_cpu(monkeypatch):
    names = {"GPU": ["GPU:0", "GPU:1"], "CPU": ["CPU:0", "CPU:1"]}
    monkeypatch.setattr("keras_resnet.train.devices._names", names.get)
    assert choose(None, Recipe()).names == ("GPU:0", "GPU:1")
    assert choose("all", Recipe()).names == ("GPU:0", "GPU:1")
    names["GPU"] = []
    assert choose(None, Recipe()).names == ("CPU:0",)
    assert choose("all", Recipe()).names == ("CPU:0", "CPU:1")
