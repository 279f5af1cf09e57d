"""A model and data -> its measures, each picture once; and predictions."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_resnet import data as pictures
from keras_resnet import onednn
from keras_resnet.data.batches import PARALLEL
from keras_resnet.errors import DataError, ModelError
from keras_resnet.evaluate import views as looks
from keras_resnet.evaluate.measures import Tally, drawable
from keras_resnet.info import Protocol
from keras_resnet.model import ResNet, note_random_weights, rebuild


def run(
    model,
    data,
    split="val",
    batch_size=64,
    max_bad_examples=0,
    views="center",
    progress: Callable = iter,
    size: int | None = None,
    scales: Sequence[int] = (),
) -> dict:
    """Evaluates a model with a classifier under the protocol that it carries.

    Args:
        model: of this package, with its top; it stays as it is. Or an exported one, of
            `engines.open_engine`, which takes one size.
        data: what `data.open_source` takes.
        split: "val" or "train".
        batch_size: pictures at a time; of no effect on the result.
        max_bad_examples: up to so many that cannot be decoded are left out.
        views: "center", the protocol's crop; "ten-crop", the mean of ten crops'
            probabilities (10 x the work); or "multi-scale", of whole pictures at the
            short sides and mirrors of arXiv 1512.03385 (about 40 x).
        progress: wraps the iteration over the batches, as a progress bar does.
        size: pixels, the crop's side instead of the protocol's, at its crop_pct; a
            model for one size only is rebuilt for any.
        scales: short sides in pixels, which mean "multi-scale" at them.

    Returns:
        {"top1": in [0, 1], "top5": in [0, 1], "loss": mean cross-entropy in nats,
        "calibration_error": in [0, 1], arXiv 1706.04599 equation 3 with 15 bins of
        confidence, "examples": pictures seen, "per_class": {name: top-1 in [0, 1], or
        None without pictures}, "confused": [{"true", "predicted", "count", "share": of
        the true class}, ...], the 100 worst pairs, and up to 1,000 classes "confusion":
        [true class][predicted class] counts}; of equal probabilities the first is what
        is predicted. And of those left out, if any, "bad_examples": [{"split", "where",
        "reason"}, ...].

    Raises:
        ValueError: of views, size and scales, before anything is read.
        ModelError: the model's classes are not the data's, its outputs not finite, or
            it is an exported one and of another size.
        DataError: the data cannot be used.
    """
    looks.check(views, size, scales)
    source = pictures.open_source(data, preflight=not max_bad_examples)
    _check_classes(model, source)
    source, skipped = pictures.without_bad(source, max_bad_examples, (split,))
    onednn.recommend()
    views = "multi-scale" if scales else views
    protocol = model.info.protocol
    if size is not None:
        protocol = dataclasses.replace(protocol, size=int(size))
    fits = size is None or model.input_shape[1:3] == (size, size)
    if views == "multi-scale" or not fits:
        model = _of_any_size(model)
    load, batch_size, classify = looks.open_views(model, views, scales, batch_size)
    batches = pictures.eval_batches(source, protocol, split, batch_size, load)
    tally = Tally(len(source.class_names))
    with pictures.blame_pictures(source, (split,)):
        for images, labels in progress(batches):
            probabilities = classify(images.numpy())
            if not np.isfinite(probabilities).all():
                raise ModelError(
                    f"{model.name}: its probabilities are not finite; its weights are "
                    f"damaged, or too large for {model.info.dtype_policy}"
                )
            tally.add(probabilities, labels.numpy().argmax(1))
    metrics = tally.result(source.class_names)
    if metrics["examples"] != source.split(split).size:
        raise DataError(
            f"{source.path}: {metrics['examples']} {split} pictures read, but "
            f"{source.split(split).size} announced; prepare it again"
        )
    return {**metrics, **({"bad_examples": skipped} if skipped else {})}


def predict(model, files, top=5) -> list[dict]:
    """Classifies picture files, or all pictures in folders.

    Of a model with random weights a line on stderr says so.

    Returns:
        A list of {"file": path, "classes": [name, ...], "probabilities": [float, ...]},
        the likeliest first, at most `top`.

    Raises:
        DataError: naming a file that is missing or no picture.
    """
    results = []
    for result in predict_each(model, files, top):
        if "problem" in result:
            raise DataError(f"{result['file']}: {result['problem']}")
        results.append(result)
    return results


def predict_each(model, files, top=5, batch_size=32) -> Iterator[dict]:
    """Yields what `predict` lists, one by one: no more than a batch is in memory.

    A file that is missing or no picture is {"file": path, "problem": why}.
    """
    note_random_weights(model)
    names, paths = class_names(model), list(_list_pictures(files))
    size = min(batch_size, len(paths))
    with ThreadPoolExecutor(PARALLEL) as pool:
        for start in range(0, len(paths), size or 1):
            some = paths[start : start + size]
            loaded = list(pool.map(lambda path: _try_load(path, model), some))
            images = [image for image in loaded if not isinstance(image, str)]
            outputs: Iterator[np.ndarray] = iter(())
            if images:
                outputs = iter(
                    looks.predict_probabilities(model, np.stack(images), size)
                )
            for path, image in zip(some, loaded):
                if isinstance(image, str):
                    yield {"file": path, "problem": image}
                    continue
                probabilities = next(outputs)
                order = np.argsort(-probabilities, kind="stable")[:top]
                yield {
                    "file": path,
                    "classes": [names[i] for i in order],
                    "probabilities": [float(probabilities[i]) for i in order],
                }


def _list_pictures(files):
    """The files, and instead of folders all that is in them, sorted."""
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


def _try_load(path, model):
    """The picture as the model takes it, or why it is none."""
    try:
        return load_picture(path, model.info.protocol)
    except DataError as error:
        return str(error).removeprefix(f"{path}: ")


def load_picture(path, protocol: Protocol) -> np.ndarray:
    """One file as evaluation sees it, uint8 [S, S, 3]; DataError names the path."""
    if Path(path).exists() and not Path(path).is_file():  # a pipe would block
        raise DataError(f"{path}: not a file")
    try:
        return pictures.load_eval(tf.io.read_file(os.fsencode(path)), protocol).numpy()
    except tf.errors.NotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except tf.errors.OpError as error:
        reason = pictures.first_sentence(error)
        raise DataError(f"{path}: not a readable picture: {reason}") from error


def class_names(model) -> tuple[str, ...]:
    """The model's class names, or numbers where it has none."""
    return model.info.class_names or tuple(map(str, range(model.info.classes)))


def picture_grid(model, data, path, count=24, split="val") -> None:
    """Writes a PNG of pictures with prediction and truth, the least certain first."""
    from matplotlib.figure import Figure

    source = pictures.open_source(data)
    names = list(map(drawable, source.class_names))
    rows: list[tuple] = []
    for images, labels in pictures.eval_batches(source, model.info.protocol, split, 64):
        probabilities = looks.predict_probabilities(model, images.numpy(), 64)
        rows += zip(
            map(np.copy, images.numpy()), labels.numpy().argmax(1), probabilities
        )
        # no more than are shown: a validation set does not fit in memory
        rows = sorted(rows, key=lambda row: row[2][row[1]])[:count]
    figure = Figure(figsize=(12, 1.9 * -(-count // 8)), layout="constrained")
    for place, (image, truth, probabilities) in enumerate(rows, start=1):
        guess = int(probabilities.argmax())
        axes = figure.add_subplot(-(-count // 8), 8, place)
        axes.imshow(image, interpolation="nearest")
        axes.set_axis_off()
        said = f"{names[guess]} {probabilities[guess]:.0%}"
        axes.set_title(
            said if guess == truth else f"{said}\nis {names[truth]}",
            color="black" if guess == truth else "crimson",
            fontsize=9,
            parse_math=False,  # a name is no formula, whatever dollars are in it
        )
    title = f"{drawable(source.path)}: the {len(rows)} least certain of {split}"
    figure.suptitle(title, parse_math=False)
    figure.savefig(path, dpi=110)


def _of_any_size(model):
    if model.input_shape[1:3] == (None, None):
        return model
    if not isinstance(model, ResNet):
        raise ModelError(
            f"{model.name}: an exported model takes {model.input_shape[1]} pixels "
            "only; leave out size and scales, or give what it was exported from"
        )
    return rebuild(model, model.info.dtype_policy, input_shape=None)


def _check_classes(model, source):
    if not model.info.include_top:
        raise ModelError(f"{model.name}: has no classifier; build it with include_top")
    theirs = model.info.class_names
    if theirs is not None and tuple(theirs) != source.class_names:
        differing = sorted(set(theirs) ^ set(source.class_names))
        raise ModelError(
            f"{source.path}: its classes are not the model's; "
            + (
                f"only in one: {', '.join(differing[:10])}"
                if differing
                else "other order"
            )
        )
    if model.info.classes != len(source.class_names):
        raise ModelError(
            f"{source.path}: has {len(source.class_names)} classes, the model "
            f"{model.info.classes}"
        )
