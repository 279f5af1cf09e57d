"""Nets written here, run by timm: python tools/compare_timm.py --python PY [VARIANT...]

PY is a Python that has torch and timm; ours need not have them. For each variant a net
with random weights is saved in timm's dialect, loaded there with strict=True, and both
answer the same input. Prints the largest difference of logits over their deviation.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import keras_resnet

NETS = [
    "resnet18d",
    "resnet34d",
    "resnet50b",
    "resnet50c",
    "resnet50d",
    "resnet50s",
    "resnet50t",
    "ecaresnet50d",
    "resnext50d_32x4d",
    "seresnext26d_32x4d",
    "resnet10t",
    "wide_resnet50_2",
    "resnetaa50d",
    "resnetblur50",
    "resnetrs50",
    "resnet50_gn",
    "senet154",
]
CLASSES = 37
TOLERANCE = 1e-5

_THEIRS = """
import sys, numpy as np, timm, torch
from safetensors.torch import load_file
name, weights, images, answers, classes = sys.argv[1:]
model = timm.create_model(name, num_classes=int(classes)).eval()
model.load_state_dict(load_file(weights), strict=True)
with torch.no_grad():
    x = torch.from_numpy(np.load(images)).permute(0, 3, 1, 2)
    np.save(answers, model(x).numpy())
"""


def difference(variant: str, python: str, folder: str) -> float:
    """max |ours - timm's| over the deviation of timm's logits."""
    random = np.random.default_rng(0)
    model = keras_resnet.create(
        variant,
        classes=CLASSES,
        include_preprocessing=False,
        classifier_activation=None,
    )
    for variable in model.weights:
        if variable.path.endswith(("gamma", "moving_variance")):
            variable.assign(random.uniform(0.5, 1.0, variable.shape))
        elif len(variable.shape) == 1:
            variable.assign(random.normal(0, 0.1, variable.shape))
    weights, images, answers = (
        Path(folder, name) for name in ("net.safetensors", "images.npy", "theirs.npy")
    )
    x = random.normal(size=(2, 160, 160, 3)).astype(np.float32)
    np.save(images, x)
    keras_resnet.save_weights(model, weights, dialect="timm")
    name = variant[:-1] if variant.endswith("b") else variant  # timm's plain nets are b
    arguments = [name, weights, images, answers, CLASSES]
    subprocess.run([python, "-c", _THEIRS, *map(str, arguments)], check=True)
    theirs = np.load(answers)
    return np.abs(model.predict(x, verbose=0) - theirs).max() / theirs.std()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("variants", nargs="*", default=NETS)
    parser.add_argument("--python", default=sys.executable)
    arguments = parser.parse_args()
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for variant in arguments.variants:
            found = difference(variant, arguments.python, folder)
            print(f"{variant:20} {found:.1e}")
            worst = max(worst, found)
    if not worst < TOLERANCE:
        sys.exit(f"{worst:.1e}: must be below {TOLERANCE:.0e}")


if __name__ == "__main__":
    main()
