"""Stand-in checkpoints of other frameworks, from the manifests in tests/goldens.

A manifest lists [name, shape, kind] of each tensor in its framework's layout. A
tensor's values depend on its name, kind and shape alone, so that no checkpoint is
stored; the .npz beside a manifest holds what the original implementation answered to
`image(size)`.
"""

import json
import re
import zlib
from pathlib import Path

import numpy as np

GOLDENS = Path(__file__).parent / "goldens"

# kind -> (scale of a normal, or None) and (low, width of a uniform, or None)
_UNIFORM = {"gamma": (0.75, 0.5), "var": (0.75, 0.5), "gamma_last": (0.2, 0.2)}


def our_name(theirs):
    """Our variant's name of a net of timm, whose plain ones stride on the 3x3: b."""
    return f"{theirs}b" if re.fullmatch(r"resnet\d+", theirs) else theirs


def tensor(name, shape, kind):
    """Convolutions as OIHW, dense kernels as [classes, channels]: the filled layout."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    normal = generator.standard_normal(shape)  # drawn first for every kind
    if kind in _UNIFORM:
        low, width = _UNIFORM[kind]
        return (low + width * generator.random(shape)).astype(np.float32)
    scale = {
        "conv": lambda: np.sqrt(2.0 / np.prod(shape[1:])),
        "fc": lambda: np.sqrt(1.0 / shape[-1]),
    }.get(kind, lambda: 0.1)()
    return (scale * normal).astype(np.float32)


def checkpoint(manifest):
    """{name: array} of a manifest, as "timm/resnet50d", in its framework's layout."""
    framework = manifest.split("/")[0]
    values = {}
    for name, shape, kind in json.loads(
        (GOLDENS / f"{manifest}.manifest.json").read_text()
    ):
        if framework == "slim" and kind == "conv":
            height, width, inputs, outputs = shape
            value = tensor(name, (outputs, inputs, height, width), kind)
            values[name] = value.transpose(2, 3, 1, 0)
        elif framework in ("slim", "paddle") and kind == "fc":
            values[name] = tensor(name, tuple(reversed(shape)), kind).T
        else:
            values[name] = tensor(name, tuple(shape), kind)
    return values


def image(size, batch=2, seed=0):
    """The input of the recorded answers: normalized [batch, size, size, 3] float32."""
    generator = np.random.Generator(np.random.PCG64(1000 + seed))
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float64) / size
    waves = [np.sin(6.28 * (3 * columns + channel * rows)) for channel in range(3)]
    noise = generator.standard_normal((batch, size, size, 3))
    return (np.stack(waves, -1)[None] + 0.5 * noise).astype(np.float32)


def labels(step, batch, classes):
    """The integer labels of a step of a recorded training trace."""
    generator = np.random.Generator(np.random.PCG64(5000 + step))
    return generator.integers(0, classes, batch)


def recorded(manifest, size):
    """The original's answers, {"logits": [2, 1000], maybe "pool": [2, C]}."""
    with np.load(GOLDENS / f"{manifest}_{size}.npz") as answers:
        return dict(answers)
