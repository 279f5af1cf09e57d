"""Exports a model as a new, checked version in a model folder."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_resnet import onednn
from keras_resnet.backend import keras
from keras_resnet.data.sources import SourceLike
from keras_resnet.data.transforms.decode import MAX_PIXELS
from keras_resnet.errors import ModelError
from keras_resnet.evaluate.prediction import class_names
from keras_resnet.export import (
    comparing,
    converters,
    other_tasks,
    quantizing,
    tf_serving,
)
from keras_resnet.export.description import write_description
from keras_resnet.export.engines import open_engine
from keras_resnet.export.folding import fold_batch_norm
from keras_resnet.export.formats import FRAME, MOST_LOSS, SERVED, brief, check_format
from keras_resnet.export.numbering import model_name
from keras_resnet.export.publishing import check_versions, partial_folder, publish
from keras_resnet.export.signatures import TOP_K, write_frame, write_saved_model
from keras_resnet.model import ResNet, in_float32, note_random_weights, rebuild

LABELS = "labels.txt"
_LINE_BREAKS = re.compile("[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")


def save(
    model: ResNet,
    folder: str | os.PathLike[str],
    format: str = "savedmodel",
    precision: str = "float32",
    pictures: Sequence[str | os.PathLike[str]] = (),
    warm_up: bool | None = None,
    say: Callable[[str], None] = lambda line: None,
    calibrate: SourceLike | None = None,
    most_loss: float = MOST_LOSS,
) -> Path:
    """Writes `folder`/<next version>/ atomically, and returns its path.

    A SavedModel has two signatures, where S is the size in the model's protocol, K the
    number of classes, and k = min(5, K):

        serving_default
            images: float32 [None, S, S, 3] in [0, 255]
            -> probabilities: float32 [None, K]
        serving_bytes
            image_bytes: string [None], JPEG or PNG files of any sizes
            -> probabilities: float32 [None, K]
            -> top_classes: string [None, k], the most probable classes
            -> top_probabilities: float32 [None, k]
            -> ok: bool [None]

    serving_bytes decodes and crops images as evaluation does. `ok` is false for a row
    that is not a JPEG or PNG, is damaged, or has more than 89,478,485 pixels. The other
    outputs of such a row are zeros and empty strings; other rows are not affected.

    Of a detector, serving_default gives {"boxes": float32 [None, 100, 4], (left, top,
    right, bottom) in pixels of `images`, "classes": string, "confidence": float32 and
    "labels": int32 [None, 100]}, filled up with -1 and ""; and serving_bytes the same
    in pixels of each file, and ok. Of a segmenter, serving_default gives {"logits":
    float32 [None, S, S, K]}; and serving_bytes {"mask": uint8 [None, S, S], "size":
    int32 [None, 2], the height and width of its top left part that shows the picture,
    "class_names": string [None, K]} and ok. Both fit pictures into a square, as their
    evaluation does, and are exported as SavedModel alone.

    An "onnx", "openvino" or "litert" file has the input `images` and the output
    `probabilities`. In all formats, batch normalization is folded into convolutions if
    the model is a net of this package. The exported model is run in its own runtime on
    real images, and the export fails if its probabilities differ too much from those of
    the model in float32.

    Beside an ONNX or OpenVINO file, `frame` is the SavedModel with which `keras-resnet
    serve` gives it the two signatures above.

    labels.txt has one class name per line, with a line break in a name as \\n, and
    model.json has what `engines.open_engine` needs; in a SavedModel, both are in
    assets/. With a SavedModel, models.config, batching.config and README.md, which are
    for TensorFlow Serving, are written to `folder`, unless they exist.

    Args:
        model: a model with a classifier that normalizes its input, trained with any
            dtype policy.
        folder: the model folder, which has all versions. It is created if missing.
        format: one of `formats.FORMATS`.
        precision: one of `formats.FORMATS[format]`: "float32", "bfloat16" or "int8". It
            does not depend on the dtype policy of the model.
        pictures: image files for the comparison; by default ten crops of a photograph.
        warm_up: whether to write the requests that TensorFlow Serving runs before it
            makes a version available; None: if tensorflow-serving-api is installed.
        say: a function that gets a line about the comparison, and a line for each
            optional step that was left out.
        calibrate: for "int8", a data set with the model's classes. Activations get the
            ranges that they have on 300 of its training images, and the accuracy on
            its validation images, at most 5,000, is compared with that in float32. If
            that is too low, the first convolution and the classifier stay in float32.
            Of one split, disjoint parts are taken. None is for LiteRT alone, and means
            that only weights are in 8 bits.
        most_loss: the percentage points of top-1 that may be lost by it; for several
            labels, of micro F1.

    Raises:
        ModelError: the model has no classifier, does not normalize its input, takes
            another input than RGB of the protocol's size, or was changed after it was
            built, for example by `quantize` or `enable_lora`; Keras has another backend
            than TensorFlow; the format, precision and model do not go together; a
            package is missing; the folder has the last possible version or cannot be
            written; the probabilities differ by more than the precision's tolerance; or
            too much accuracy is lost.
        DataError: an image for the comparison, or the data set, cannot be read.
    """
    _check(model, format, precision, warm_up, calibrate is not None)
    if not 0 <= most_loss <= 100:
        raise ModelError(f"most_loss={most_loss!r}: must be points, from 0 to 100")
    onednn.recommend()
    note_random_weights(model)
    inputs: Any  # pictures, and for the other tasks where each lies
    compare: Callable[..., float]
    if model.info.task == "classify":
        activation = model.info.classifier_activation
        activation = model.info.probability if model.info.gives_logits else activation
        exported = rebuild(model, classifier_activation=activation)
        if model.info.config is None:
            say(
                f"{model.name}: batch normalization is not folded, since the model is "
                "not a net of this package"
            )
        shown = inputs = comparing.photographs(model.info.protocol, pictures)
        compare, reference = comparing.check, in_float32(model)
        where = "in the probabilities"
    else:
        exported = reference = other_tasks.in_float32(model)
        inputs = comparing.squares(model.info.protocol, pictures)
        compare, shown = other_tasks.check, inputs[0]
        where = other_tasks.WHERE[model.info.task]
    folder = Path(folder)
    check_versions(folder, format)
    if calibrate is not None:
        images, held_out = quantizing.divide(calibrate, exported)
    with _disk_errors(folder), partial_folder(folder) as partial:
        version, accuracy = partial / "version", None
        if calibrate is None:
            beside = _write(exported, version, format, precision)
        else:

            def attempt(calibration: converters.Calibration) -> Path:
                shutil.rmtree(version, ignore_errors=True)
                return _write(exported, version, format, precision, calibration)

            accuracy = quantizing.quantize(
                attempt, images, reference, held_out, most_loss, format
            )
            beside = version
            compare = comparing.difference  # what counts is the accuracy
            say(f"{format} in {precision}: {accuracy}")
        with open_engine(version) as engine:
            difference = compare(engine, reference, inputs)
        say(
            f"{format} in {precision}: off by at most {difference:.1e} {where} of "
            f"{len(shown)} pictures"
        )
        about = (exported.info, format, precision, difference, accuracy)
        write_description(beside, *about)
        if format == "savedmodel":
            _write_for_serving(exported, folder, version, shown, warm_up, say)
        return publish(version, folder)


def _write(
    model: ResNet,
    version: Path,
    format: str,
    precision: str,
    calibration: converters.Calibration | None = None,
) -> Path:
    """Writes a model, labels and description; returns the folder of the latter two."""
    is_ours = model.info.config is not None and model.info.task == "classify"
    if format == "savedmodel":
        net = fold_batch_norm(model, precision) if is_ours else model
        write_saved_model(net, version)
        beside = version / "assets"
    else:
        version.mkdir()
        # always float32; OpenVINO converts to bfloat16 when it loads the model
        net = fold_batch_norm(model) if is_ours else model
        converters.write(net, version, format, precision, calibration)
        if format in SERVED:
            write_frame(model, version / FRAME)
        beside = version
    beside.mkdir(exist_ok=True)
    names = [_LINE_BREAKS.sub(_escaped, name) for name in class_names(model)]
    labels = "".join(f"{name}\n" for name in names)
    (beside / LABELS).write_text(labels, encoding="utf8", errors="surrogateescape")
    write_description(beside, model.info, format, precision)
    return beside


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def _write_for_serving(
    model: ResNet,
    folder: Path,
    version: Path,
    images: np.ndarray,
    warm_up: bool | None,
    say: Callable[[str], None],
) -> None:
    variables = {
        "variant": model.info.variant,
        "classes": model.info.classes,
        "size": model.info.protocol.size,
        "pixels": f"{MAX_PIXELS:,}",
        **tf_serving.said_of(model.info, min(TOP_K, model.info.classes)),
    }
    tf_serving.write_beside(folder, variables)
    if warm_up or (warm_up is None and tf_serving.can_warm_up()):
        tf_serving.write_warm_up(version, model_name(folder), images[0])
    elif warm_up is None:
        say(
            "no warm-up requests, since tensorflow-serving-api is not installed: a "
            "server's first answer will be slow; `pip install keras-resnet-d[serving]`"
        )


@contextlib.contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Converts errors of the file system, also TensorFlow's, to a ModelError."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        if isinstance(error, tf.errors.OpError):
            reason = brief(error)
        else:
            reason = error.strerror or f"{error}"
        raise ModelError(f"{folder}: cannot be written: {reason}") from error


def _check(
    model: ResNet,
    format: str,
    precision: str,
    warm_up: bool | None,
    calibrated: bool,
) -> None:
    if keras.backend.backend() != "tensorflow":
        raise ModelError(
            f"backend={keras.backend.backend()!r}: models are exported on the "
            "TensorFlow backend; set KERAS_BACKEND=tensorflow"
        )
    if (task := model.info.task) != "classify":
        if (format, precision) != ("savedmodel", "float32"):
            raise ModelError(
                f"format={format!r}, precision={precision!r}: a model for "
                f"task={task!r} is exported as savedmodel in float32"
            )
    else:
        _check_input(model)
    if not model.info.include_top or not model.info.include_preprocessing:
        raise ModelError(
            f"{model.name}: built with include_top={model.info.include_top}, "
            f"include_preprocessing={model.info.include_preprocessing}; "
            "serving needs both"
        )
    check_format(format, precision, calibrated=calibrated)
    if model.info.config is None and (format, precision) == ("savedmodel", "bfloat16"):
        raise ModelError(
            f"precision={precision!r}: {model.name} is not a net of this package; "
            "export it in float32, or as openvino"
        )
    if warm_up and format != "savedmodel":
        raise ModelError(f"warm_up=True with format={format!r}: must be 'savedmodel'")
    if warm_up and not tf_serving.can_warm_up():
        raise ModelError(
            "warm_up=True: needs the package tensorflow-serving-api; run `pip install "
            "keras-resnet-d[serving]`"
        )


def _check_input(model: ResNet) -> None:
    """Checks that the model accepts RGB images of the protocol's size."""
    side, (height, width, channels) = model.info.protocol.size, model.input_shape[1:]
    if channels != 3:
        raise ModelError(
            f"{model.name}: takes images of {channels} channels, but an export takes "
            "RGB; create and train it with 3, since grayscale files are read as RGB too"
        )
    if {height, width} <= {None, side}:
        return
    remedy = "create it without input_shape"
    if height == width:
        remedy = (
            f"set its info to info.replace(protocol=Protocol({height})), or {remedy}"
        )
    raise ModelError(
        f"{model.name}: takes images of {height}x{width} pixels only, but its "
        f"protocol has size={side}; {remedy}"
    )
