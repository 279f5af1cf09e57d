"""Translates the names and layouts of tensors between checkpoints and this package."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from keras_resnet.complexity import variable_shapes
from keras_resnet.config import VARIANTS, ResNetConfig
from keras_resnet.errors import WeightsError
from keras_resnet.weights.dialects import DIALECTS, Dialect, Native

NATIVE = "keras_resnet"  # the dialect of this package
HEAD = ("head/kernel", "head/bias")
# tensors that frameworks store in addition to the weights of a model
_BOOKKEEPING = re.compile(
    r"(.*\.)?num_batches_tracked|StructuredToParameterName@@|global_step"
    r"|.*/(Momentum|ExponentialMovingAverage|Adam|Adam_1)"
    r"|(optimizer|metrics)/.*|.*/seed_generator/.*"
)
_LISTED = 20  # names of each kind in an error message


@dataclass(frozen=True)
class LoadReport:
    """What `load_weights` did; str() gives a readable summary."""

    dialect: str
    loaded: tuple[str, ...]  # names in the source
    ignored: tuple[str, ...]  # names in the source that the model does not need
    initial: tuple[str, ...]  # paths of the model that kept their initial values

    def __str__(self) -> str:
        text = f"{self.dialect}: {len(self.loaded)} tensors loaded"
        if self.ignored:
            text += f"; ignored: {', '.join(self.ignored)}"
        if self.initial:
            text += f"; left at initial values: {', '.join(self.initial)}"
        return text


@dataclass(frozen=True)
class Translation:
    """A checkpoint in the names and layouts of this package, read on demand."""

    report: LoadReport
    names: dict[str, str]  # path -> name in the source
    tensors: Mapping[str, np.ndarray]
    scheme: Dialect | Native

    def value(self, path: str) -> np.ndarray:
        """The value of the variable at a path."""
        tensor = np.asarray(self.tensors[self.names[path]])
        return _to_native(self.scheme, path, tensor)

    @property
    def values(self) -> dict[str, np.ndarray]:
        """{path: value} of all variables."""
        return {path: self.value(path) for path in self.names}


def to_native(
    tensors: Mapping[str, np.ndarray],
    config: ResNetConfig,
    shapes: Mapping[str, tuple[int, ...]],
    dialect: str = "auto",
    strict: bool = True,
) -> Translation:
    """Translates a checkpoint to the variables of a model.

    Args:
        tensors: {name: array} of the source.
        config: the configuration of the model.
        shapes: {path: shape} of the weights of the model.
        dialect: a name in DIALECTS, or "auto" to recognize it.
        strict: if False, the head is left out if that of the source does not fit.

    Raises:
        WeightsError: listing all missing and unexpected tensors, those of a wrong
            shape, and the variants that the source fits, if any.
    """
    names: dict[str | None, str] = {_without_scope(name): name for name in tensors}
    dialect, scheme = _recognize(names, config, shapes, dialect)
    table = {path: scheme.name(path, config) for path in shapes}
    source = {path: names[name] for path, name in table.items() if name in names}
    found = {
        path: _native_shape(scheme, path, tensors[name].shape)
        for path, name in source.items()
    }
    missing = [path for path in shapes if path not in source]
    misshaped = [path for path in source if found[path] != tuple(shapes[path])]
    used = dict(source)
    initial: tuple[str, ...] = ()
    if not strict and set(HEAD) & {*missing, *misshaped}:
        initial = tuple(path for path in HEAD if path in shapes)
        used = {path: name for path, name in source.items() if path not in HEAD}
        missing = [path for path in missing if path not in HEAD]
        misshaped = [path for path in misshaped if path not in HEAD]
    # a model without a head ignores that of the source
    heads = {names.get(scheme.name(path, config)) for path in HEAD}
    extra = [name for name in tensors if name not in source.values()]
    ignored = tuple(n for n in extra if n in heads or _BOOKKEEPING.fullmatch(n))
    unexpected = [name for name in extra if name not in ignored]
    if missing or misshaped or unexpected:
        problems = {
            "missing": [table[path] or path for path in missing],
            "unexpected": unexpected,
            "of a wrong shape, in Keras's layout": [
                f"{table[path]} {found[path]}, not {tuple(shapes[path])}"
                for path in misshaped
            ],
        }
        if not unexpected and {*missing, *misshaped} <= set(HEAD):
            remedy = "all but the head fits: strict=False leaves the head as it is"
        else:
            fitting = _fitting_variants(scheme, tensors, names)
            remedy = f"it fits {' or '.join(fitting)}" if fitting else ""
        raise WeightsError(_message(dialect, problems, remedy))
    report = LoadReport(dialect, tuple(used.values()), ignored, initial)
    return Translation(report, used, tensors, scheme)


def from_native(
    values: Mapping[str, np.ndarray], config: ResNetConfig, dialect: str
) -> dict[str, np.ndarray]:
    """Translates the variables of a model to the names and layouts of a dialect.

    Args:
        values: {path: value} of the model.
        config: the configuration of the model.
        dialect: a name in DIALECTS; the newest scheme of the dialect is used.

    Returns:
        {name: array}.

    Raises:
        ValueError: if the dialect is unknown.
        WeightsError: if the dialect has no name for a variable, such as those of
            attention or the biases of folded batch normalization.
    """
    _check_dialect(dialect)
    if dialect != NATIVE and config.fused_batch_norm is None:
        raise WeightsError(
            f"dialect={dialect!r}: has no names for a net with folded batch "
            f"normalization; save the net before folding, or with dialect={NATIVE!r}"
        )
    scheme = DIALECTS[dialect][0]
    tensors = {}
    for path, value in values.items():
        name = scheme.name(path, config)
        if name is None:
            raise WeightsError(f"{dialect} has no name for {path}")
        tensors[name] = np.ascontiguousarray(scheme.from_native(value))
    return tensors


def _to_native(scheme: Dialect | Native, path: str, value: np.ndarray) -> np.ndarray:
    if path == HEAD[0] and value.ndim == 4 and value.shape[:2] == (1, 1):
        return value[0, 0]  # in TF-slim the classifier is a convolution
    return scheme.to_native(value)


def _native_shape(
    scheme: Dialect | Native, path: str, shape: tuple[int, ...]
) -> tuple[int, ...]:
    """The shape, in Keras's layout, of a tensor with this shape in the source."""
    return _to_native(scheme, path, np.broadcast_to(np.float32(0), shape)).shape


def _without_scope(name: str) -> str:
    """A name without DataParallel's prefix, or without TF-slim's scopes and ":0"."""
    match = re.fullmatch(r"(?:.*/)?((?:C\d|logits)/.*?)(?::0)?", name)
    return match[1] if match else name.removeprefix("module.")


def _check_dialect(dialect: str, *others: str) -> None:
    known = (*others, *DIALECTS)
    if dialect not in known:
        raise ValueError(f"dialect={dialect!r}: must be one of {', '.join(known)}")


def _recognize(
    names: Mapping[str | None, str],
    config: ResNetConfig,
    shapes: Mapping[str, tuple[int, ...]],
    dialect: str,
) -> tuple[str, Dialect | Native]:
    """The dialect and its scheme that name the most tensors of the source."""
    _check_dialect(dialect, "auto")
    candidates = [
        (key, scheme)
        for key, schemes in DIALECTS.items()
        for scheme in schemes
        if dialect in ("auto", key)
    ]
    return max(
        candidates,
        key=lambda pair: sum(pair[1].name(path, config) in names for path in shapes),
    )


def _message(dialect: str, problems: Mapping[str, list[str]], remedy: str) -> str:
    lines = [f"this {dialect} checkpoint does not fit the net:"]
    for what, items in problems.items():
        if items:
            more = f" and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
            lines.append(f"{what}: {', '.join(items[:_LISTED])}{more}")
    return "\n  ".join([*lines, remedy] if remedy else lines)


def _fitting_variants(
    scheme: Dialect | Native,
    tensors: Mapping[str, np.ndarray],
    names: Mapping[str | None, str],
) -> list[str]:
    """The variants whose tensors, except the head, are those of the source."""
    fitting = []
    present = {name for name in names if not _BOOKKEEPING.fullmatch(str(name))}
    for variant, config in VARIANTS.items():
        shapes = variable_shapes(config, classes=0)
        table = {scheme.name(path, config): path for path in shapes}
        heads = {scheme.name(path, config) for path in HEAD}
        if table.keys() == present - heads and all(
            _native_shape(scheme, path, tensors[names[name]].shape) == shapes[path]
            for name, path in table.items()
        ):
            fitting.append(variant)
    return fitting
