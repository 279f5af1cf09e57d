"""What each framework calls our variables, and how it lays them out.

A dialect is a table of renames from our variable's path; the first pattern that matches
the whole path names the tensor. Paths are `stem/conv1/conv/kernel`,
`stage1_block0/conv1/norm/gamma`, `stage1_block0/shortcut/projection/conv/kernel`,
`stage1_block0/attention/fc1/kernel`, `head/kernel`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from keras_resnet.config import ResNetConfig


@dataclass(frozen=True)
class Dialect:
    """One framework's names: (pattern, template or function of match and config)."""

    modules: tuple[tuple[str, str | Callable[[re.Match, ResNetConfig], str]], ...]
    leaves: dict[str, str]  # our last path component -> theirs
    separator: str
    torch_layout: bool  # convolutions OIHW, 1-D convolutions OIK
    dense_transposed: bool  # dense kernels [classes, channels]

    def name(self, path: str, config: ResNetConfig) -> str:
        """The dialect's name of our variable."""
        module, _, leaf = path.rpartition("/")
        for pattern, template in self.modules:
            if match := re.fullmatch(pattern, module):
                prefix = (
                    match.expand(template)
                    if isinstance(template, str)
                    else template(match, config)
                )
                kind = f"norm/{leaf}" if module.endswith("/norm") else leaf
                return prefix + self.separator + self.leaves[kind]
        raise KeyError(f"{path} has no name in this dialect")

    def to_ours(self, value: np.ndarray) -> np.ndarray:
        """Their kernel in our layout: HWIO, [size, I, O] or [channels, classes]."""
        if self.torch_layout and value.ndim == 4:
            return value.transpose(2, 3, 1, 0)
        if self.torch_layout and value.ndim == 3:
            return value.transpose(2, 1, 0)
        if self.dense_transposed and value.ndim == 2:
            return value.transpose(1, 0)
        return value


_BLOCK = r"stage(\d+)_block(\d+)"


def _torch_stem(match, config):
    conv, part = int(match[1]), match[2]
    if config.stem == "conv7":
        return {"conv": "conv1", "norm": "bn1"}[part]
    if part == "norm":
        return {1: "conv1.1", 2: "conv1.4", 3: "bn1"}[conv]
    return f"conv1.{3 * (conv - 1)}"


def _torch_shortcut(match, config):
    pool = int(config.shortcut == "avg_pool")  # timm keeps the pool at index 0
    index = pool + {"conv": 0, "norm": 1}[match[3]]
    return f"layer{match[1]}.{match[2]}.downsample.{index}"


_TORCH_MODULES: tuple = (
    (r"stem/conv(\d)/(conv|norm)", _torch_stem),
    (_BLOCK + r"/conv(\d)/conv", r"layer\1.\2.conv\3"),
    (_BLOCK + r"/conv(\d)/norm", r"layer\1.\2.bn\3"),
    (_BLOCK + r"/shortcut/projection/(conv|norm)", _torch_shortcut),
    (_BLOCK + r"/attention/(\w+)", r"layer\1.\2.se.\3"),
    (r"head", "fc"),
)


def _slim(template):
    return lambda match, config: (
        template(match) + ("/BatchNorm" if match[match.lastindex] == "norm" else "")
    )


_SLIM_MODULES: tuple = (
    (r"stem/conv(\d)/(conv|norm)", _slim(lambda m: f"C1/conv{int(m[1]) - 1}")),
    (
        _BLOCK + r"/conv(\d)/(conv|norm)",
        _slim(lambda m: f"C{int(m[1]) + 1}/bottleneck_{m[2]}/conv{int(m[3]) - 1}"),
    ),
    (
        _BLOCK + r"/shortcut/projection/(conv|norm)",
        _slim(lambda m: f"C{int(m[1]) + 1}/bottleneck_{m[2]}/shortcut"),
    ),
    (r"head", "logits"),
)


def _paddle(template):
    def name(match, config):
        part = {"conv": "conv", "norm": "bn"}[match[match.lastindex]]
        return f"{template(match, config)}.{part}"

    return name


def _paddle_block(match, config):  # blocks are numbered through all stages
    return f"blocks.{sum(config.depths[: int(match[1]) - 1]) + int(match[2])}"


_PADDLE_MODULES: tuple = (
    (r"stem/conv(\d)/(conv|norm)", _paddle(lambda m, _: f"stem.{int(m[1]) - 1}")),
    (
        _BLOCK + r"/conv(\d)/(conv|norm)",
        _paddle(lambda m, config: f"{_paddle_block(m, config)}.conv{int(m[3]) - 1}"),
    ),
    (
        _BLOCK + r"/shortcut/projection/(conv|norm)",
        _paddle(lambda m, config: f"{_paddle_block(m, config)}.short"),
    ),
    (r"head", "fc"),
)

DIALECTS = {
    "timm": Dialect(
        modules=_TORCH_MODULES,
        leaves={
            "kernel": "weight",
            "bias": "bias",
            "norm/gamma": "weight",
            "norm/beta": "bias",
            "norm/moving_mean": "running_mean",
            "norm/moving_variance": "running_var",
        },
        separator=".",
        torch_layout=True,
        dense_transposed=True,
    ),
    "gluon": Dialect(
        modules=_TORCH_MODULES,
        leaves={
            "kernel": "weight",
            "bias": "bias",
            "norm/gamma": "gamma",
            "norm/beta": "beta",
            "norm/moving_mean": "running_mean",
            "norm/moving_variance": "running_var",
        },
        separator=".",
        torch_layout=True,
        dense_transposed=True,
    ),
    "paddle": Dialect(
        modules=_PADDLE_MODULES,
        leaves={
            "kernel": "weight",
            "bias": "bias",
            "norm/gamma": "weight",
            "norm/beta": "bias",
            "norm/moving_mean": "_mean",
            "norm/moving_variance": "_variance",
        },
        separator=".",
        torch_layout=True,
        dense_transposed=False,
    ),
    "slim": Dialect(
        modules=_SLIM_MODULES,
        leaves={
            "kernel": "weights",
            "bias": "biases",
            "norm/gamma": "gamma",
            "norm/beta": "beta",
            "norm/moving_mean": "moving_mean",
            "norm/moving_variance": "moving_variance",
        },
        separator="/",
        torch_layout=False,
        dense_transposed=False,
    ),
}
