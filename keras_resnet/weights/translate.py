"""A checkpoint's tensors <-> ours: every name accounted for, or one error."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from keras_resnet.complexity import variable_shapes
from keras_resnet.config import VARIANTS, ResNetConfig
from keras_resnet.errors import WeightsError
from keras_resnet.weights.dialects import DIALECTS, Dialect, Own

OURS = "keras_resnet"  # our own dialect
HEAD = ("head/kernel", "head/bias")
# what frameworks keep beside the weights, and no net of this family computes with
_BOOKKEEPING = re.compile(
    r"(.*\.)?num_batches_tracked|StructuredToParameterName@@|global_step"
    r"|.*/(Momentum|ExponentialMovingAverage|Adam|Adam_1)"
    r"|(optimizer|metrics)/.*|.*/seed_generator/.*"
)
_LISTED = 20  # names of one kind in a message


@dataclass(frozen=True)
class Translation:
    """A checkpoint in our names and layouts, each tensor when it is asked for."""

    dialect: str
    names: dict[str, str]  # our path -> the source's name
    ignored: tuple[str, ...]  # names of the source that are no part of the net
    initial: tuple[str, ...]  # our paths that the source does not fill
    tensors: Mapping[str, np.ndarray]
    scheme: Dialect | Own

    def value(self, path: str) -> np.ndarray:
        """One of our variables' value."""
        tensor = np.asarray(self.tensors[self.names[path]])
        return _ours(self.scheme, path, tensor)

    @property
    def values(self) -> dict[str, np.ndarray]:
        """{our path: value} of all."""
        return {path: self.value(path) for path in self.names}


def to_ours(
    tensors: Mapping[str, np.ndarray],
    config: ResNetConfig,
    shapes: Mapping[str, tuple[int, ...]],
    dialect: str = "auto",
    strict: bool = True,
) -> Translation:
    """Translates a checkpoint to the variables of a net.

    Args:
        tensors: {name: array} of the source.
        config: of the net.
        shapes: {path: shape} of the net's weights.
        dialect: a name of DIALECTS, "keras_resnet", or "auto".
        strict: False leaves the head out where the source has none, or another.

    Raises:
        WeightsError: listing every missing, unexpected and misshaped tensor, and the
            variant that the source is of, where there is one.
    """
    names = {_without_scope(name): name for name in tensors}
    dialect, scheme = _recognise(names, config, shapes, dialect)
    table = {path: scheme.name(path, config) for path in shapes}
    source = {path: names[name] for path, name in table.items() if name in names}
    ours = {
        path: _shape(scheme, path, tensors[name].shape) for path, name in source.items()
    }
    missing = [path for path in shapes if path not in source]
    misshaped = [path for path in source if ours[path] != tuple(shapes[path])]
    used = dict(source)
    initial: tuple[str, ...] = ()
    if not strict and set(HEAD) & {*missing, *misshaped}:
        initial = tuple(path for path in HEAD if path in shapes)
        used = {path: name for path, name in source.items() if path not in HEAD}
        missing, misshaped = (
            [path for path in paths if path not in HEAD]
            for paths in (missing, misshaped)
        )
    # a net without a head has no use for the file's
    heads = {names.get(scheme.name(path, config)) for path in HEAD}
    extra = [name for name in tensors if name not in source.values()]
    ignored = tuple(n for n in extra if n in heads or _BOOKKEEPING.fullmatch(n))
    unexpected = [name for name in extra if name not in ignored]
    if missing or misshaped or unexpected:
        problems = {
            "missing": [table[path] or path for path in missing],
            "unexpected": unexpected,
            "misshaped, in our layout": [
                f"{table[path]} {ours[path]}, not {tuple(shapes[path])}"
                for path in misshaped
            ],
        }
        if not unexpected and {*missing, *misshaped} <= set(HEAD):
            remedy = "all but the head fits: strict=False leaves the head as it is"
        else:
            fitting = _fitting_variants(scheme, tensors, names)
            remedy = f"it is of {' or '.join(fitting)}" if fitting else ""
        raise WeightsError(_message(dialect, problems, remedy))
    return Translation(dialect, used, ignored, initial, tensors, scheme)


def to_theirs(
    values: Mapping[str, np.ndarray], config: ResNetConfig, dialect: str
) -> dict[str, np.ndarray]:
    """The opposite: {name: array} in a dialect's names and layout, its newest scheme.

    Raises:
        WeightsError: where the dialect has no name for a variable, such as attention's
            or the biases of folded batch normalisation.
    """
    if dialect != OURS and config.fused_batch_norm is None:
        raise WeightsError(
            f"dialect={dialect!r}: has no names for a net of folded batch "
            f"normalisation; save the net before folding, or in {OURS}"
        )
    scheme = DIALECTS[dialect][0]
    theirs = {}
    for path, value in values.items():
        name = scheme.name(path, config)
        if name is None:
            raise WeightsError(f"{dialect} has no name for {path}")
        theirs[name] = np.ascontiguousarray(scheme.to_theirs(value))
    return theirs


def _ours(scheme, path, value):
    if path == HEAD[0] and value.ndim == 4 and value.shape[:2] == (1, 1):
        return value[0, 0]  # slim.conv2d as the classifier
    return scheme.to_ours(value)


def _shape(scheme, path, shape):
    """The shape in our layout of a tensor of theirs, of which only that is known."""
    return _ours(scheme, path, np.broadcast_to(np.float32(0), shape)).shape


def _without_scope(name):
    """Without DataParallel's prefix; TF-slim's without the net's scopes and ":0"."""
    match = re.fullmatch(r"(?:.*/)?((?:C\d|logits)/.*?)(?::0)?", name)
    return match[1] if match else name.removeprefix("module.")


def _recognise(names, config, shapes, dialect):
    """The dialect, and of its schemes the one, whose names the source has most of."""
    if dialect not in ("auto", *DIALECTS):
        raise ValueError(
            f"dialect={dialect!r}: must be one of auto, {', '.join(DIALECTS)}"
        )
    candidates = [
        (key, scheme)
        for key, schemes in DIALECTS.items()
        for scheme in schemes
        if dialect in ("auto", key)
    ]

    def overlap(candidate):
        return sum(candidate[1].name(path, config) in names for path in shapes)

    return max(candidates, key=overlap)


def _message(dialect, problems, remedy):
    lines = [f"this {dialect} checkpoint does not fit the net:"]
    for what, items in problems.items():
        if items:
            more = f" and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
            lines.append(f"{what}: {', '.join(items[:_LISTED])}{more}")
    return "\n  ".join([*lines, remedy] if remedy else lines)


def _fitting_variants(scheme, tensors, names):
    """Variants whose every tensor but the head's is in the source, and shaped so."""
    fitting = []
    present = {name for name in names if not _BOOKKEEPING.fullmatch(name)}
    for variant, config in VARIANTS.items():
        shapes = variable_shapes(config, classes=0)
        table = {scheme.name(path, config): path for path in shapes}
        heads = {scheme.name(path, config) for path in HEAD}
        if table.keys() == present - heads and all(
            _shape(scheme, path, tensors[names[name]].shape) == shapes[path]
            for name, path in table.items()
        ):
            fitting.append(variant)
    return fitting
