"""Predicts the classes of image files."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_resnet.data import first_sentence, load_eval
from keras_resnet.data.batches import PARALLEL
from keras_resnet.errors import DataError, ModelError
from keras_resnet.evaluate.views import (
    check_views,
    open_views,
    predict_probabilities,
)
from keras_resnet.info import Protocol
from keras_resnet.model import note_random_weights

Paths = Iterable[str | os.PathLike[str]]


def predict(
    model: Any,
    files: Paths,
    top: int = 5,
    views: str = "center",
    threshold: float = 0.0,
) -> list[dict[str, Any]]:
    """Classifies image files, or all files in folders.

    If the model has random weights, a line on stderr warns of it.

    Args:
        model: a classifier with an evaluation protocol.
        files: the paths of image files or folders.
        top: the number of classes to return for each image.
        views: as in `run`: "center", or "ten-crop" or "multi-scale" for mean
            probabilities.
        threshold: the least probability of a class to return, in [0, 1].

    Returns:
        A list of {"file": path, "classes": [name, ...], "probabilities": [float, ...]},
        with the likeliest class first. A model for several labels adds "labels", the
        classes whose probability reaches the model's threshold.

    Raises:
        ValueError: views are unknown, or the threshold is not in [0, 1].
        DataError: a file is missing or is not an image; the message names it.
    """
    results = []
    for result in predict_each(model, files, top, 32, views, threshold):
        if "problem" in result:
            raise DataError(f"{result['file']}: {result['problem']}")
        results.append(result)
    return results


def predict_each(
    model: Any,
    files: Paths,
    top: int = 5,
    batch_size: int = 32,
    views: str = "center",
    threshold: float = 0.0,
) -> Iterator[dict[str, Any]]:
    """Yields the results of `predict` one by one, with one batch in memory at a time.

    A file that is missing or is not an image yields {"file": path, "problem": reason}.
    """
    check_views(views)
    if not 0 <= threshold <= 1:
        raise ModelError(f"threshold={threshold}: must be in [0, 1]")
    note_random_weights(model)
    names, paths = class_names(model), list(list_pictures(files))
    batch_size = min(batch_size, len(paths)) or 1
    load, size, classify = open_views(model, views, (), batch_size)
    for start in range(0, len(paths), size):
        batch = paths[start : start + size]
        found = outputs(
            model, batch, size, lambda _, images, __: classify(images), load
        )
        for path, output in zip(batch, found):
            if isinstance(output, str):
                yield {"file": path, "problem": output}
                continue
            order = [i for i in likeliest(output, top) if output[i] >= threshold]
            result = {
                "file": path,
                "classes": [names[i] for i in order],
                "probabilities": [float(output[i]) for i in order],
            }
            if model.info.several_labels:
                has = output >= np.array(model.info.thresholds, output.dtype)
                result["labels"] = [names[i] for i in np.flatnonzero(has)]
            yield result


def likeliest(probabilities: np.ndarray, top: int) -> np.ndarray:
    """The indices of the `top` largest probabilities, the largest first."""
    return np.argsort(-probabilities, kind="stable")[:top]


def outputs(
    model: Any,
    pictures: Sequence[str | bytes],
    batch_size: int,
    compute: Callable[[Any, Any, int], Any] = predict_probabilities,
    load: Callable[[Any, Protocol], Any] = load_eval,
) -> list[Any]:
    """What a model gives for each picture, or the reason why it cannot be read.

    Args:
        model: a classifier with an evaluation protocol.
        pictures: paths, or the bytes of image files; at most `batch_size` of them.
        batch_size: of the model's inputs; fewer pictures are filled up.
        compute: (model, images, batch size) -> a row for each image.
        load: (image file, protocol) -> the model's input, or several tensors, which
            `compute` then gets as a tuple of arrays.

    Returns:
        For each picture its row, or the reason as a string.
    """
    loaded = list(
        _pool().map(lambda picture: _try_load(picture, model, load), pictures)
    )
    images = [image for image in loaded if not isinstance(image, str)]
    rows: Iterator[Any] = iter(())
    if images:
        stacked = tf.nest.map_structure(lambda *parts: np.stack(parts), *images)
        rows = iter(compute(model, stacked, batch_size))
    return [image if isinstance(image, str) else next(rows) for image in loaded]


@functools.cache
def _pool() -> ThreadPoolExecutor:
    """The threads that load pictures, of all batches."""
    return ThreadPoolExecutor(PARALLEL, "pictures")


def list_pictures(files: Paths) -> Iterator[str]:
    """Yields the files, with each folder replaced by all files in it, sorted."""
    for file in files:
        if not os.path.isdir(file):
            yield str(Path(file))
            continue
        inside = (
            os.path.join(folder, name)
            for folder, _, names in os.walk(Path(file))
            for name in names
            if not name.startswith(".")
        )
        found = map(str, map(Path, filter(os.path.isfile, inside)))
        yield from sorted(found, key=lambda path: path.split(os.sep))


def _try_load(picture: str | bytes, model: Any, load: Callable) -> Any:
    """Returns the image as the model takes it, or the reason why it cannot be read."""
    protocol = model.info.protocol
    try:
        if isinstance(picture, bytes):
            return _decoded(picture, protocol, load)
        return load_picture(picture, protocol, load)
    except DataError as error:
        return str(error).removeprefix(f"{picture!s}: ")


def load_picture(
    path: str | os.PathLike[str],
    protocol: Protocol,
    load: Callable[[Any, Protocol], Any] = load_eval,
) -> Any:
    """Reads an image file and crops it as in evaluation.

    Returns:
        uint8 [S, S, 3], or the arrays that `load` makes.

    Raises:
        DataError: the file is missing or is not an image; the message names it.
    """
    if Path(path).exists() and not Path(path).is_file():  # a pipe would block
        raise DataError(f"{path}: not a file")
    try:
        return _decoded(tf.io.read_file(os.fsencode(path)), protocol, load)
    except tf.errors.NotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except tf.errors.OpError as error:
        reason = first_sentence(error)
        raise DataError(f"{path}: not a readable picture: {reason}") from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _decoded(data: tf.Tensor | bytes, protocol: Protocol, load: Callable) -> Any:
    try:
        return tf.nest.map_structure(lambda it: it.numpy(), load(data, protocol))
    except tf.errors.OpError as error:
        reason = first_sentence(error)
        raise DataError(f"not a readable picture: {reason}") from error


def class_names(model: Any) -> tuple[str, ...]:
    """Returns the model's class names, or their numbers if it has no names."""
    return model.info.class_names or tuple(map(str, range(model.info.classes)))
