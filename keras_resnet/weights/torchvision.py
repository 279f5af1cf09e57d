"""torchvision's checkpoints -> the nets of `baselines` and `keras.applications`.

Each net has a table of its layers and torchvision's modules, in order. Kernels behind a
Flatten are permuted from torch's order (C, H, W) to (H, W, C).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from keras_resnet.errors import WeightsError
from keras_resnet.weights.translate import LoadReport

# a variable, the names that its value is made of, and how
_Entry = tuple[Any, tuple[str, ...], Callable[..., np.ndarray]]

_ALEXNET = {
    **{f"conv{n}": f"features.{m}" for n, m in enumerate((0, 3, 6, 8, 10), start=1)},
    "fc1": "classifier.1",
    "fc2": "classifier.4",
    "head": "classifier.6",
}
_INCEPTION_V3 = {
    ("Mixed_5b", "Mixed_5c", "Mixed_5d"): (
        *("branch1x1", "branch5x5_1", "branch5x5_2"),
        *(f"branch3x3dbl_{n}" for n in (1, 2, 3)),
        "branch_pool",
    ),
    ("Mixed_6a",): ("branch3x3", *(f"branch3x3dbl_{n}" for n in (1, 2, 3))),
    ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"): (
        "branch1x1",
        *(f"branch7x7_{n}" for n in (1, 2, 3)),
        *(f"branch7x7dbl_{n}" for n in (1, 2, 3, 4, 5)),
        "branch_pool",
    ),
    ("Mixed_7a",): (
        *("branch3x3_1", "branch3x3_2"),
        *(f"branch7x7x3_{n}" for n in (1, 2, 3, 4)),
    ),
    ("Mixed_7b", "Mixed_7c"): (
        *("branch1x1", "branch3x3_1", "branch3x3_2a", "branch3x3_2b"),
        *(f"branch3x3dbl_{n}" for n in ("1", "2", "3a", "3b")),
        "branch_pool",
    ),
}
_STEM_V3 = ("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3")
# what checkpoints have beside the weights of a net, or for training alone
_EXTRA = re.compile(r".*\.num_batches_tracked|AuxLogits\..*|aux[12]\..*")
_LISTED = 20  # problems in a message


def load(model: Any, tensors: Mapping[str, Any], strict: bool = True) -> LoadReport:
    """Loads a torchvision checkpoint into a net, completely or not at all.

    Args:
        model: of `baselines`; or VGG16, VGG19, a DenseNet or InceptionV3 of
            `keras.applications`, with its classifier.
        tensors: {name: array}.
        strict: False leaves the classifier as it is if it has other classes.

    Raises:
        WeightsError: the net is none of these, or the checkpoint does not fit it; the
            message lists the missing, unexpected and misshaped tensors.
    """
    source = {
        name.removeprefix("module."): np.asarray(it) for name, it in tensors.items()
    }
    entries = list(_entries(model))
    head = {
        id(variable)
        for layer in model.layers
        if layer.name in ("head", "predictions", "aux1", "aux2")
        for variable in layer.weights
    }
    values, initial, problems = [], [], []
    for variable, names, make in entries:
        if missing := [name for name in names if name not in source]:
            problems += [f"missing {name}" for name in missing]
            continue
        value = make(*(source[name] for name in names))
        if value.shape == tuple(variable.shape):
            values.append((variable, value))
        elif id(variable) in head and not strict:
            initial.append(variable.path)
        else:
            problems.append(
                f"{names[0]} {value.shape}, not {tuple(variable.shape)}, in Keras"
            )
    used = dict.fromkeys(name for _, names, _ in entries for name in names)
    extra = [name for name in source if name not in used]
    unexpected = [name for name in extra if not _EXTRA.fullmatch(name)]
    problems += [f"unexpected {name}" for name in unexpected]
    if problems:
        more = len(problems) - _LISTED
        listed = problems[:_LISTED] + ([f"and {more} more"] if more > 0 else [])
        raise WeightsError(
            "\n  ".join(
                [f"this torchvision checkpoint does not fit {model.name}:", *listed]
            )
        )
    if "mixed10" in {layer.name for layer in model.layers}:
        _count_padding(model)
    for variable, value in values:
        variable.assign(value)
    return LoadReport("torchvision", tuple(used), tuple(extra), tuple(initial))


def _entries(model: Any) -> Iterator[_Entry]:
    layers = {layer.name: layer for layer in model.layers}
    if "block5_conv3" in layers:
        yield from _vgg(layers)
    elif "conv5_block16_2_conv" in layers:
        yield from _densenet(layers)
    elif "mixed10" in layers:
        yield from _inception_v3(model)
    elif "inception5b" in layers:
        yield from _googlenet(layers)
    elif set(_ALEXNET) <= layers.keys():
        for name, module in _ALEXNET.items():
            yield from _convolution(layers[name], module, 6 if name == "fc1" else None)
    else:
        raise WeightsError(
            f"{model.name}: must be a net of this package, of `baselines`, or a VGG, "
            "DenseNet or InceptionV3 of keras.applications with its classifier"
        )


def _vgg(layers: Mapping[str, Any]) -> Iterator[_Entry]:
    place = 0
    for name, layer in layers.items():
        if re.fullmatch(r"block\d_conv\d", name):
            yield from _convolution(layer, f"features.{place}")
            place += 2  # with its ReLU
        elif re.fullmatch(r"block\d_pool", name):
            place += 1
    for name, place in (("fc1", 0), ("fc2", 3), ("predictions", 6)):
        side = 7 if name == "fc1" else None
        yield from _convolution(_classifier(layers, name), f"classifier.{place}", side)


def _densenet(layers: Mapping[str, Any]) -> Iterator[_Entry]:
    for name, layer in layers.items():
        if match := re.fullmatch(r"conv(\d)_block(\d+)_([012])_(bn|conv)", name):
            stage, block, number, kind = match.groups()
            # Keras numbers 0_bn, 1_conv, 1_bn, 2_conv; torch norm1, conv1, norm2, conv2
            place = int(number) + (kind == "bn")
            part = "norm" if kind == "bn" else "conv"
            module = f"denseblock{int(stage) - 1}.denselayer{block}.{part}{place}"
        elif match := re.fullmatch(r"pool(\d)_(bn|conv)", name):
            part = {"bn": "norm", "conv": "conv"}[match[2]]
            module = f"transition{int(match[1]) - 1}.{part}"
        else:
            module = _DENSENET.get(name.replace("/", "_"), "")
        if module:
            make = _norm if "norm" in module.rpartition(".")[2] else _convolution
            yield from make(layer, f"features.{module}")
    yield from _convolution(_classifier(layers, "predictions"), "classifier")


_DENSENET = {"conv1_conv": "conv0", "conv1_bn": "norm0", "bn": "norm5"}


def _inception_v3(model: Any) -> Iterator[_Entry]:
    """Its layers have numbers; Keras and torchvision make them in the same order."""
    modules = [f"Conv2d_{name}" for name in _STEM_V3]
    for blocks, parts in _INCEPTION_V3.items():
        modules += [f"{block}.{part}" for block in blocks for part in parts]
    kinds: dict[str, list[Any]] = {"conv2d": [], "batch_normalization": []}
    for layer in model.layers:
        if match := re.fullmatch(
            r"(conv2d|batch_normalization)(?:_(\d+))?", layer.name
        ):
            kinds[match[1]].append((int(match[2] or 0), layer))
    convolutions, norms = (
        [layer for _, layer in sorted(kind, key=lambda pair: pair[0])]
        for kind in kinds.values()
    )
    for module, convolution, norm in zip(modules, convolutions, norms, strict=True):
        # the normalization has no gamma, which scales kernel and mean instead
        gamma = f"{module}.bn.weight"
        yield (
            convolution.kernel,
            (f"{module}.conv.weight", gamma),
            lambda kernel, scale: kernel.transpose(2, 3, 1, 0) * scale,
        )
        yield norm.beta, (f"{module}.bn.bias",), np.asarray
        yield (
            norm.moving_mean,
            (f"{module}.bn.running_mean", gamma),
            lambda mean, scale: mean * scale,
        )
        yield norm.moving_variance, (f"{module}.bn.running_var",), np.asarray
    layers = {layer.name: layer for layer in model.layers}
    yield from _convolution(_classifier(layers, "predictions"), "fc")


def _count_padding(model: Any) -> None:
    """Makes the averages within InceptionV3 those of torchvision.

    Keras leaves the padding out of a "same" average, and torchvision counts it, which
    moves logits by a quarter of their deviation. The layers get another class, which is
    registered with Keras and comes back from the model's files.
    """
    from keras_resnet.layers.pooling import PaddedAveragePooling2D, layers

    for layer in model.layers:
        if type(layer) is layers.AveragePooling2D and layer.padding == "same":
            layer.__class__ = PaddedAveragePooling2D
    # what was compiled with the former class
    model.train_function = model.test_function = model.predict_function = None


def _googlenet(layers: Mapping[str, Any]) -> Iterator[_Entry]:
    for name, layer in layers.items():
        if name.startswith("conv"):
            yield from _conv_norm(layer, name)
        elif name.startswith("inception"):
            for part in ("branch1", "branch2_0", "branch2_1", "branch3_0", "branch3_1"):
                yield from _conv_norm(getattr(layer, part), f"{name}.{part}")
            yield from _conv_norm(layer.branch4_1, f"{name}.branch4_1")
        elif name in ("aux1", "aux2"):
            yield from _conv_norm(layer.conv, f"{name}.conv")
            yield from _convolution(layer.fc1, f"{name}.fc1", 4)
            yield from _convolution(layer.fc2, f"{name}.fc2")
    yield from _convolution(layers["head"], "fc")


def _conv_norm(layer: Any, module: str) -> Iterator[_Entry]:
    module = module.replace("_", ".")
    yield from _convolution(layer.conv, f"{module}.conv")
    yield from _norm(layer.norm, f"{module}.bn")


def _norm(layer: Any, module: str) -> Iterator[_Entry]:
    for variable, leaf in (
        (layer.gamma, "weight"),
        (layer.beta, "bias"),
        (layer.moving_mean, "running_mean"),
        (layer.moving_variance, "running_var"),
    ):
        yield variable, (f"{module}.{leaf}",), np.asarray


def _convolution(layer: Any, module: str, side: int | None = None) -> Iterator[_Entry]:
    """A convolution or dense layer, which may be behind the Flatten of side x side."""

    def kernel(value: np.ndarray) -> np.ndarray:
        if value.ndim == 4:
            return value.transpose(2, 3, 1, 0)
        if side is None or value.shape[1] % side**2:
            return value.T
        outputs = len(value)
        value = value.reshape(outputs, -1, side, side).transpose(2, 3, 1, 0)
        return value.reshape(-1, outputs)

    yield layer.kernel, (f"{module}.weight",), kernel
    if layer.use_bias:
        yield layer.bias, (f"{module}.bias",), np.asarray


def _classifier(layers: Mapping[str, Any], name: str) -> Any:
    if name not in layers:
        raise WeightsError(f"no layer {name!r}: build the net with include_top=True")
    return layers[name]
