"""The nets answer what the original implementations answered."""

import numpy as np
import pytest
from checkpoints import GOLDENS, checkpoint, image, our_name, recorded
from safetensors.numpy import save_file
from weight_files import write_checkpoint, write_mxnet, write_paddle, write_torch

import keras_resnet
from keras_resnet.backend import keras

# (manifest, size of the recorded input)
CASES = sorted(
    (f"{path.parent.name}/{path.stem.rpartition('_')[0]}", int(path.stem[-3:]))
    for framework in ("timm", "gluon", "slim", "paddle")
    for path in GOLDENS.glob(f"{framework}/*.npz")
)


def our_variant(manifest):
    framework, net = manifest.split("/")
    if framework == "timm":
        return our_name(net)
    if framework in ("gluon", "slim"):
        return net.replace("_v1d", "d")
    return {"ResNet18_vd": "resnet18vd", "ResNet50_vd": "resnet50d"}[net]


def write_npz(path, tensors):
    np.savez(path, **tensors)


def write_safetensors(path, tensors):
    save_file(tensors, path)


# framework -> its own kinds of file, taken in turns
WRITERS = {
    "timm": {
        "safetensors": write_safetensors,
        "pth": write_torch,
        "npz": write_npz,
    },
    "gluon": {"params": write_mxnet},
    "paddle": {"pdparams": write_paddle},
    "slim": {"ckpt": write_checkpoint},
}


def relative_error(ours, theirs):
    """Largest difference in standard deviations of the recorded answer."""
    return np.abs(ours - theirs).max() / theirs.std()


def test_every_recording_is_here():
    assert len(CASES) == 33
    assert {manifest.split("/")[0] for manifest, _ in CASES} == {
        "timm",
        "gluon",
        "slim",
        "paddle",
    }


# of each original one, and of timm two more; the others are in `make test-slow`
QUICK = {
    ("timm/resnet18d", 224),
    ("timm/ecaresnet50d", 224),
    ("timm/seresnext26d_32x4d", 224),
    ("gluon/resnet50_v1d", 224),
    ("paddle/ResNet18_vd", 224),
    ("slim/resnet50_v1d", 224),
}


@pytest.mark.addons
@pytest.mark.parametrize(
    ("manifest", "size"),
    [
        pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow)
        for case in CASES
    ],
)
def test_logits_are_the_originals_through_a_file(manifest, size, tmp_path):
    framework = manifest.split("/")[0]
    kinds = list(WRITERS[framework])
    kind = kinds[CASES.index((manifest, size)) % len(kinds)]
    path = tmp_path / f"weights.{kind}"
    WRITERS[framework][kind](path, checkpoint(manifest))
    model = keras_resnet.create(
        our_variant(manifest), classifier_activation=None, include_preprocessing=False
    )
    report = keras_resnet.load_weights(model, path)
    assert (report.dialect, report.initial) == (framework, ())
    assert len(report.loaded) == len(model.weights)
    answers = recorded(manifest, size)
    both = keras.Model(
        model.input, [model.get_layer("pool").output, model.get_layer("head").output]
    )
    pool, logits = both.predict_on_batch(image(size))
    assert relative_error(logits, answers["logits"]) < 1e-5
    if "pool" in answers:
        assert relative_error(pool, answers["pool"]) < 1e-5
