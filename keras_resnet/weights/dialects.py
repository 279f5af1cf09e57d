"""What each framework calls a net's variables, and which layouts it gives them.

A dialect is a table of names, one template for each kind of module. A path of this
package is `stem/conv1/conv/kernel`, `stage1_block0/conv1/norm/gamma`,
`stage1_block0/shortcut/projection/conv/kernel`, `stage1_block0/attention/fc1/kernel`
or `head/kernel`.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_resnet.config import ResNetConfig


@dataclass(frozen=True)
class Dialect:
    """One framework's names; a pair is of a convolution and its normalization."""

    stem: tuple[str, str]
    block: tuple[str, str]
    shortcut: tuple[str, str]
    head: tuple[str, str] | None  # kernel and bias; None: its files have no head
    kernel: str  # what follows a convolution's name
    norm: tuple[str, str, str, str]  # gamma, beta, moving mean, moving variance
    attention: tuple[str, str] | None = None  # kernel and bias
    stem_pool: tuple[str, str] | None = None  # of a convolution in the pool's place
    torch_layout: bool = True  # convolutions OIHW, 1-D convolutions OIK
    dense_transposed: bool = True  # dense kernels [classes, channels]

    def name(self, path: str, config: ResNetConfig) -> str | None:
        """The dialect's name of the variable at a path; None where it has none."""
        module, _, leaf = path.rpartition("/")
        pair = ("kernel", "bias")
        if module == "head":
            return None if self.head is None else self.head[pair.index(leaf)]
        match = re.fullmatch(
            r"(stem|stage\d_block\d+)/(\w+?)(\d?)(/projection)?/(\w+)", module
        )
        if match is None:
            return None
        where, what, number, _, part = match.groups()
        fields = _fields(where, number, part, config)
        if what == "attention":
            if self.attention is None:
                return None
            return self.attention[pair.index(leaf)].format(**fields)
        names = {
            "stem": self.stem,
            "pool": self.stem_pool,
            "conv": self.block,
            "shortcut": self.shortcut,
        }["stem" if where == "stem" and what == "conv" else what]
        if names is None:
            return None
        conv, norm = names
        if part == "conv":
            return conv.format(**fields) + self.kernel
        return norm.format(**fields) + self.norm[_NORM.index(leaf)]

    def to_native(self, value: np.ndarray) -> np.ndarray:
        """A kernel in Keras's layout: HWIO, [size, I, O] or [channels, classes]."""
        return value.transpose(self._axes(value.ndim))

    def from_native(self, value: np.ndarray) -> np.ndarray:
        """The opposite: a kernel in the dialect's layout."""
        return value.transpose(np.argsort(self._axes(value.ndim)))

    def _axes(self, rank: int) -> tuple[int, ...]:
        """The dialect's axis for each axis of Keras's layout."""
        if self.torch_layout and rank in (3, 4):
            return (2, 3, 1, 0) if rank == 4 else (2, 1, 0)
        if self.dense_transposed and rank == 2:
            return (1, 0)
        return tuple(range(rank))


class Native:
    """The paths and layouts of this package, which its .safetensors files have too."""

    def name(self, path: str, config: ResNetConfig) -> str | None:
        """The path itself."""
        return path

    def to_native(self, value: np.ndarray) -> np.ndarray:
        """The value itself."""
        return value

    from_native = to_native


class KerasFile(Native):
    """Where Keras keeps the variables in a .weights.h5, and so in a .keras."""

    def name(self, path: str, config: ResNetConfig) -> str | None:
        """As layers/bottleneck_block_3/conv1/norm/vars/0: counted by class of layer."""
        module, _, leaf = path.rpartition("/")
        layer, _, inner = module.partition("/")
        order = _NORM if inner.endswith("/norm") else ("kernel", "bias")
        if layer == "head":
            layer = "dense"
        elif layer == "stem":
            layer = "conv_stem" if config.stem == "conv7" else "deep_stem"
        else:
            stage, index = map(int, re.findall(r"\d+", layer))
            count = sum(config.depths[: stage - 1]) + index
            layer = f"{config.block}_block" + (f"_{count}" if count else "")
        return "/".join(filter(None, ("layers", layer, inner, "vars"))) + (
            f"/{order.index(leaf)}"
        )


_NORM = ("gamma", "beta", "moving_mean", "moving_variance")


def _fields(where: str, number: str, part: str, config: ResNetConfig) -> dict[str, Any]:
    """The fields that a template may have."""
    if where == "stem":
        k = int(number or 1)
        deep = config.stem != "conv7"
        return {
            "k": k,
            "k0": k - 1,
            # a Sequential of convolution, norm, ReLU, ...; its last norm is outside
            "torch_conv": f"conv1.{3 * k - 3}" if deep else "conv1",
            "torch_norm": f"conv1.{3 * k - 2}" if deep and k < 3 else "bn1",
        }
    stage, index = map(int, re.findall(r"\d+", where))
    letter = chr(ord("a") + index)
    deep_stage = stage == 3 and config.depths[2] > 10 and index > 0
    pool = int(config.shortcut == "avg_pool")  # torch's Sequential keeps the pool first
    return {
        "s0": stage - 1,
        "s": stage,
        "s1": stage + 1,
        "i": index,
        "flat": sum(config.depths[: stage - 1]) + index,  # through all stages
        "letter": letter,
        "letter_or_number": f"b{index}" if deep_stage else letter,
        "j": number,
        "j0": int(number or 1) - 1,
        "branch": chr(ord("a") + int(number or 1) - 1),
        "down": pool,
        "down1": pool + 1,
        "warped": "" if stage == 1 else ".conv",  # a Sequential of pool and convolution
        "part": part,
    }


_TIMM = Dialect(
    stem=("{torch_conv}", "{torch_norm}"),
    block=("layer{s}.{i}.conv{j}", "layer{s}.{i}.bn{j}"),
    shortcut=("layer{s}.{i}.downsample.{down}", "layer{s}.{i}.downsample.{down1}"),
    head=("fc.weight", "fc.bias"),
    kernel=".weight",
    norm=(".weight", ".bias", ".running_mean", ".running_var"),
    attention=("layer{s}.{i}.se.{part}.weight", "layer{s}.{i}.se.{part}.bias"),
    stem_pool=("maxpool.0", "maxpool.1"),
)
_PADDLE = Dialect(
    stem=("stem.{k0}.conv", "stem.{k0}.bn"),
    block=("blocks.{flat}.conv{j0}.conv", "blocks.{flat}.conv{j0}.bn"),
    shortcut=("blocks.{flat}.short.conv", "blocks.{flat}.short.bn"),
    head=("fc.weight", "fc.bias"),
    kernel=".weight",
    norm=(".weight", ".bias", "._mean", "._variance"),
    dense_transposed=False,
)
_PADDLE_STATIC = Dialect(
    stem=("conv1_{k}", "bnv1_{k}"),
    block=("res{s1}{letter}_branch2{branch}", "bn{s1}{letter}_branch2{branch}"),
    shortcut=("res{s1}{letter}_branch1", "bn{s1}{letter}_branch1"),
    head=("fc_0.w_0", "fc_0.b_0"),
    kernel="_weights",
    norm=("_scale", "_offset", "_mean", "_variance"),
    dense_transposed=False,
)
_PADDLE_DETECTION = dataclasses.replace(
    _PADDLE,
    stem=("conv1.conv1_{k}.conv", "conv1.conv1_{k}.norm"),
    block=(
        "res{s1}.res{s1}{letter}.branch2{branch}.conv",
        "res{s1}.res{s1}{letter}.branch2{branch}.norm",
    ),
    shortcut=(
        "res{s1}.res{s1}{letter}.short{warped}.conv",
        "res{s1}.res{s1}{letter}.short{warped}.norm",
    ),
    head=None,
)


def _numbered(dialect: Dialect) -> Dialect:
    """With res4a, res4b1, res4b2, ... in the long stage of deep nets."""

    def renamed(pair: tuple[str, str]) -> Any:
        return tuple(name.replace("{letter}", "{letter_or_number}") for name in pair)

    return dataclasses.replace(
        dialect, block=renamed(dialect.block), shortcut=renamed(dialect.shortcut)
    )


# a dialect's schemes are those that its framework has used over the years
DIALECTS: dict[str, tuple[Dialect | Native, ...]] = {
    "timm": (_TIMM,),
    "torchvision": (_TIMM,),  # timm kept its names
    "gluon": (
        dataclasses.replace(
            _TIMM, norm=(".gamma", ".beta", ".running_mean", ".running_var")
        ),
    ),
    "paddle": (
        _PADDLE,
        dataclasses.replace(
            _PADDLE,
            stem=("conv1_{k}._conv", "conv1_{k}._batch_norm"),
            block=("bb_{s0}_{i}.conv{j0}._conv", "bb_{s0}_{i}.conv{j0}._batch_norm"),
            shortcut=("bb_{s0}_{i}.short._conv", "bb_{s0}_{i}.short._batch_norm"),
            head=("out.weight", "out.bias"),
        ),
        _PADDLE_STATIC,
        _numbered(_PADDLE_STATIC),
        _PADDLE_DETECTION,
        _numbered(_PADDLE_DETECTION),
    ),
    "slim": (
        Dialect(
            stem=("C1/conv{k0}", "C1/conv{k0}/BatchNorm"),
            block=(
                "C{s1}/bottleneck_{i}/conv{j0}",
                "C{s1}/bottleneck_{i}/conv{j0}/BatchNorm",
            ),
            shortcut=(
                "C{s1}/bottleneck_{i}/shortcut",
                "C{s1}/bottleneck_{i}/shortcut/BatchNorm",
            ),
            head=("logits/weights", "logits/biases"),
            kernel="/weights",
            norm=("/gamma", "/beta", "/moving_mean", "/moving_variance"),
            torch_layout=False,
            dense_transposed=False,
        ),
    ),
    "keras_resnet": (Native(), KerasFile()),
}
"""{dialect: its schemes of names}; the keys are what `dialect` may be."""
