"""Model soups: one net whose weights are the mean of those of several."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from keras_resnet.backend import keras, ops
from keras_resnet.data import blame_pictures, eval_batches, open_source
from keras_resnet.data.sources import SourceLike
from keras_resnet.data.splits import Source
from keras_resnet.errors import DataError, ModelError
from keras_resnet.evaluate.evaluation import check_classes, run
from keras_resnet.info import ModelInfo
from keras_resnet.model import assign
from keras_resnet.opening import open_model, read_model_info
from keras_resnet.train.thresholds import choose_thresholds

KINDS = ("greedy", "uniform")
_BATCH = 64  # of training images, from which statistics are estimated
_BATCHES = 100
# of a configuration: what has a part in training alone, and may differ
_OF_TRAINING = ("zero_gamma", "drop_path", "dropout")

Name = str | os.PathLike[str]
Weights = dict[str, np.ndarray]  # {path of a variable: its value}


def soup(
    models: Sequence[Name],
    data: SourceLike,
    kind: str = "greedy",
    progress: Callable[[Iterable], Iterable] = iter,
) -> tuple[Any, dict[str, Any]]:
    """A net whose weights are the mean of those of several models (arXiv 2203.05482).

    A "uniform" soup is the mean of all models. A "greedy" one begins with the model of
    the best top-1 and adds the others in the order of theirs, each if the top-1 of the
    mean does not fall (recipe 1).

    The moving statistics of batch normalization are not averaged but estimated anew for
    each mean, by `estimate_statistics` from up to 6,400 training images, drawn by a
    fixed seed and cropped as in evaluation. Those that are equal in all models, as in
    frozen stages, stay.

    Args:
        models: two or more that `open_model` takes, such as runs that began with the
            same weights. Two of them are in memory at a time, and a sum in float64.
        data: what `open_source` takes, with both splits and the models' classes.
        kind: "greedy" or "uniform".
        progress: a function that wraps the iteration over the batches of each
            evaluation.

    Returns:
        (the net, with the description of the first model, {"kind", "models": [{"model",
        "top1", "used"}, ...] in the given order, "top1": of the net, "examples"}).
        Top-1 is in [0, 1], of the validation images. A greedy soup is chosen by them,
        so that its top-1 is a little better than on others.

    Raises:
        ModelError: `kind` is unknown, there are fewer than two models, one is no
            classifier of this package, or they differ in more than their weights.
        DataError: the data cannot be used.
    """
    if kind not in KINDS:
        raise ModelError(f"kind={kind!r}: must be one of {', '.join(KINDS)}")
    _check_alike(models)
    source = open_source(data)
    net = open_model(models[0])
    check_classes(net, source)
    images = _training_images(source)
    batches = eval_batches(images, net.info.protocol, "train", _BATCH)
    top1s, norms = _measure_each(net, models, source, progress)

    def measure_mean(sums: Weights, count: int) -> float:
        """Gives the net a mean of several models, and returns its top-1."""
        assign(net, {path: it / count for path, it in sums.items()})
        with blame_pictures(images, ("train",)):
            estimate_statistics(net, (it.numpy() for it, _ in batches), norms)
        return run(net, source, progress=progress)["top1"]

    # a stable order: of equal models the first one comes first
    first, *others = sorted(range(len(models)), key=lambda it: -top1s[it])
    used, best, kept = [first], top1s[first], _weights(open_model(models[first]))
    sums = {path: it.astype(np.float64) for path, it in kept.items()}
    for place in others:
        more = {
            path: sums[path] + it
            for path, it in _weights(open_model(models[place])).items()
        }
        if kind == "uniform":
            sums, used = more, [*used, place]
        elif (top1 := measure_mean(more, len(used) + 1)) >= best:
            sums, used, best, kept = more, [*used, place], top1, _weights(net)
    if kind == "uniform":
        best = measure_mean(sums, len(used))
    else:
        assign(net, kept)
    if net.info.several_labels:
        net.info = net.info.replace(thresholds=choose_thresholds(net, source))
    rows = [
        {"model": os.fspath(model), "top1": top1, "used": place in used}
        for place, (model, top1) in enumerate(zip(models, top1s))
    ]
    examples = source.split("val").size
    return net, {"kind": kind, "models": rows, "top1": best, "examples": examples}


def estimate_statistics(
    net: Any, batches: Iterable[np.ndarray], norms: Sequence[Any] | None = None
) -> None:
    """Gives batch normalization the means of its statistics over batches of images.

    All of these layers normalize by the statistics of the batch meanwhile, and nothing
    is dropped. Each batch counts equally, and should have images of all classes.

    Args:
        net: a keras.Model, whose moving statistics change.
        batches: images [N, H, W, 3], as the net takes them.
        norms: the batch normalization layers whose statistics to estimate; the others
            normalize by the statistics that they have. None: all that are not frozen.

    Raises:
        DataError: there are no batches.
    """
    found = _norms(net)
    norms = [it for it in (found if norms is None else norms) if not _is_frozen(it)]
    if not norms:
        return
    drops = [it for it in net._flatten_layers() if isinstance(it, keras.layers.Dropout)]
    # without momentum the moving statistics are those of the last batch
    changes = [(it, "momentum", 0.0) for it in norms]
    changes += [(it, "trainable", False) for it in found if it not in norms]
    changes += [(it, "rate", 0.0) for it in drops]
    moving = [it for norm in norms for it in (norm.moving_mean, norm.moving_variance)]
    sums = [np.zeros(tuple(it.shape)) for it in moving]
    count = 0
    with _changed(changes):
        for images in batches:
            net(images, training=True)
            count += 1
            for total, variable in zip(sums, moving):
                total += ops.convert_to_numpy(variable)
    if not count:
        raise DataError("batches: there are none; give one or more")
    for total, variable in zip(sums, moving):
        variable.assign(total / count)


def _norms(net: Any) -> list[Any]:
    layers = net._flatten_layers()
    return [it for it in layers if isinstance(it, keras.layers.BatchNormalization)]


def _is_frozen(norm: Any) -> bool:
    return not norm.trainable or getattr(norm, "frozen_statistics", False)


@contextlib.contextmanager
def _changed(changes: Sequence[tuple[Any, str, Any]]) -> Iterator[None]:
    """Sets attributes of layers within the context."""
    before = [(layer, name, getattr(layer, name)) for layer, name, _ in changes]
    try:
        for layer, name, value in changes:
            setattr(layer, name, value)
        yield
    finally:
        for layer, name, value in before:
            setattr(layer, name, value)


def _weights(net: Any) -> Weights:
    return {it.path: np.array(ops.convert_to_numpy(it)) for it in net.weights}


def _measure_each(
    net: Any,
    models: Sequence[Name],
    source: Source,
    progress: Callable[[Iterable], Iterable],
) -> tuple[list[float], list[Any]]:
    """(top-1 of each model, the layers of `net` whose statistics differ among them)."""
    means = {it: np.array(ops.convert_to_numpy(it.moving_mean)) for it in _norms(net)}
    top1s, differing = [], set()
    for model in models:
        assign(net, _weights(open_model(model)))  # of one net, which is traced once
        top1s.append(run(net, source, progress=progress)["top1"])
        for norm, mean in means.items():
            if not np.array_equal(mean, ops.convert_to_numpy(norm.moving_mean)):
                differing.add(norm)
    return top1s, [it for it in means if it in differing]


def _training_images(source: Source) -> Source:
    """The source with the training images for statistics alone, in random order.

    There are full batches of them, or one with all if there are fewer images.
    """
    train = source.split("train")
    count = min(train.size // _BATCH, _BATCHES) * _BATCH or train.size
    return dataclasses.replace(source, train=train.take(train.order(0, 0)[:count]))


def _check_alike(models: Sequence[Name]) -> None:
    """Refuses models that differ in more than their weights, before any is opened."""
    if len(models) < 2:
        raise ModelError(f"models={[*map(str, models)]}: a soup needs two or more")
    first: dict[str, Any] = {}
    for model in models:
        info = read_model_info(model)
        info.check_classifies(str(model))
        if info.config is None:
            raise ModelError(
                f"{model}: is {info.variant}; a soup needs nets of this package"
            )
        fields = _fields(info)
        first = first or fields
        for name in first | fields:
            if fields.get(name) != first.get(name):
                raise ModelError(
                    f"{model}: has {name}={fields.get(name)!r}, and {models[0]} "
                    f"{first.get(name)!r}; a soup needs models that differ in their "
                    "weights alone"
                )


def _fields(info: ModelInfo) -> dict[str, Any]:
    """{field: value} of what has to be equal, with a field for each class name."""
    fields = dataclasses.asdict(info)
    del fields["dtype_policy"]
    fields["several_labels"] = fields.pop("thresholds") is not None
    names = fields.pop("class_names") or ()
    for part in ("config", "protocol"):
        fields |= {f"{part}.{name}": it for name, it in fields.pop(part).items()}
    for name in _OF_TRAINING:
        del fields[f"config.{name}"]
    return fields | {f"class_names[{place}]": it for place, it in enumerate(names)}
