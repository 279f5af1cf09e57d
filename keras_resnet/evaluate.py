"""A model and data -> top-1, top-5 and loss, each picture once; and predictions."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_resnet import data as pictures
from keras_resnet.model import ModelError, Protocol
from keras_resnet.views import MultiScale, load_ten_crops, load_whole, softmax

VIEWS = ("center", "ten-crop", "multi-scale")
METRICS = "metrics.json"  # in a run directory
GRID = "predictions.png"


def run(
    model,
    data,
    split="val",
    batch_size=64,
    max_bad_examples=0,
    views="center",
    progress: Callable = iter,
) -> dict:
    """Evaluates a model with a classifier under the protocol that it carries.

    Args:
        model: of this package, with its top.
        data: what `data.open_source` takes.
        split: "val" or "train".
        batch_size: pictures at a time; of no effect on the result.
        max_bad_examples: up to so many that cannot be decoded are left out.
        views: "center", the protocol's crop; "ten-crop", the mean of ten crops'
            probabilities (10 x the work); or "multi-scale", of whole pictures at the
            short sides and mirrors of arXiv 1512.03385 (about 40 x).
        progress: wraps the iteration over the batches, as a progress bar does.

    Returns:
        {"top1": in [0, 1], "top5": in [0, 1], "loss": mean cross-entropy in nats,
        "examples": pictures seen}, and of those left out, if any,
        "bad_examples": [{"split", "where", "reason"}, ...].

    Raises:
        ModelError: the model's classes are not the data's.
        DataError: the data cannot be used.
    """
    source = pictures.open_source(data)
    _check_classes(model, source)
    source, skipped = pictures.without_bad(source, max_bad_examples, (split,))
    load, batch_size, classify = _looks(model, views, batch_size)
    batches = pictures.eval_batches(
        source, model.info.protocol, split, batch_size, load
    )
    hits1 = hits5 = examples = 0
    loss = 0.0
    with pictures.blame_pictures(source, (split,)):
        for images, labels in progress(batches):
            probabilities = classify(images.numpy())
            truth = labels.numpy().argmax(1)
            rows = np.arange(len(truth))
            right = probabilities[rows, truth]
            # places above the right class; of a tie, what comes first is above
            better = (probabilities > right[:, None]).sum(1)
            ties_before = (
                (probabilities == right[:, None])
                & (np.arange(probabilities.shape[1]) < truth[:, None])
            ).sum(1)
            rank = better + ties_before
            hits1 += int((rank < 1).sum())
            hits5 += int((rank < 5).sum())
            loss -= float(np.log(np.maximum(right.astype(np.float64), 1e-45)).sum())
            examples += len(truth)
    if examples != source.split(split).size:
        raise pictures.DataError(
            f"{source.path}: {examples} {split} pictures read, but "
            f"{source.split(split).size} announced; prepare it again"
        )
    return {
        "top1": hits1 / examples,
        "top5": hits5 / examples,
        "loss": loss / examples,
        "examples": examples,
        **({"bad_examples": skipped} if skipped else {}),
    }


def predict(model, files, top=5) -> list[dict]:
    """Classifies picture files, or all pictures in folders.

    Returns:
        A list of {"file": path, "classes": [name, ...], "probabilities": [float, ...]},
        the likeliest first, at most `top`.

    Raises:
        DataError: naming a file that is missing or no picture.
    """
    paths = []
    for file in map(Path, files):
        inside = sorted(
            p for p in file.rglob("*") if p.is_file() and not p.name.startswith(".")
        )
        paths.extend(inside if file.is_dir() else [file])
    results = []
    for path in paths:
        image = load_picture(path, model.info.protocol)
        probabilities = predict_probabilities(model, image[None])[0]
        order = np.argsort(-probabilities, kind="stable")[:top]
        results.append(
            {
                "file": str(path),
                "classes": [class_names(model)[i] for i in order],
                "probabilities": [float(probabilities[i]) for i in order],
            }
        )
    return results


def load_picture(path, protocol: Protocol) -> np.ndarray:
    """One file as evaluation sees it, uint8 [S, S, 3]; DataError names the path."""
    if Path(path).exists() and not Path(path).is_file():  # a pipe would block
        raise pictures.DataError(f"{path}: not a file")
    try:
        return pictures.load_eval(tf.io.read_file(os.fsencode(path)), protocol).numpy()
    except tf.errors.NotFoundError as error:
        raise pictures.DataError(f"{path}: no such file") from error
    except tf.errors.OpError as error:
        reason = pictures.first_sentence(error)
        raise pictures.DataError(f"{path}: not a readable picture: {reason}") from error


def predict_probabilities(model, images, batch_size=None) -> np.ndarray:
    """float32 [N, classes]; a short batch is padded, so that one graph serves all."""
    count = len(images)
    if batch_size and count < batch_size:
        padding = np.zeros((batch_size - count, *images.shape[1:]), images.dtype)
        images = np.concatenate([images, padding])
    outputs = np.asarray(model.predict_on_batch(images))[:count]
    return softmax(outputs) if model.info.classifier_activation is None else outputs


def class_names(model) -> tuple[str, ...]:
    """The model's class names, or numbers where it has none."""
    return model.info.class_names or tuple(map(str, range(model.info.classes)))


def picture_grid(model, data, path, count=24, split="val") -> None:
    """Writes a PNG of pictures with prediction and truth, the least certain first."""
    from matplotlib.figure import Figure

    source = pictures.open_source(data)
    names = source.class_names
    rows: list[tuple] = []
    for images, labels in pictures.eval_batches(source, model.info.protocol, split, 64):
        probabilities = predict_probabilities(model, images.numpy(), 64)
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
        )
    figure.suptitle(f"{source.path}: the {len(rows)} least certain of {split}")
    figure.savefig(path, dpi=110)


def _looks(model, views, batch_size):
    """(how a picture is loaded, pictures a batch, images -> float32 [N, classes])."""
    if views == "ten-crop":

        def classify(crops):
            images = crops.reshape(-1, *crops.shape[2:])
            outputs = predict_probabilities(model, images, 10 * batch_size)
            return outputs.reshape(len(crops), 10, -1).mean(1)

        return load_ten_crops, batch_size, classify
    if views == "multi-scale":
        look = MultiScale(model)
        return load_whole, 1, lambda images: look(images[0])[None]
    if views != "center":
        raise ValueError(f"views={views!r}: must be one of {VIEWS}")
    return (
        pictures.load_eval,
        batch_size,
        lambda images: predict_probabilities(model, images, batch_size),
    )


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
