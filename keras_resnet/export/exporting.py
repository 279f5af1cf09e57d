"""A model -> what servers and other runtimes run, checked, then numbered."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_resnet import onednn
from keras_resnet.backend import keras
from keras_resnet.data.transforms.decode import MAX_PIXELS
from keras_resnet.errors import ModelError
from keras_resnet.evaluate.prediction import class_names
from keras_resnet.export import comparing, converters, tf_serving
from keras_resnet.export.description import write_description
from keras_resnet.export.engines import open_engine
from keras_resnet.export.folding import fold_batch_norm
from keras_resnet.export.formats import brief, check_format
from keras_resnet.export.publishing import check_versions, partial_folder, publish
from keras_resnet.export.signatures import TOP_K, write_saved_model
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
) -> Path:
    """Writes `folder`/<next version>/, whole or not at all, and returns that path.

    The signatures of a SavedModel, for S the side that the model's protocol names and
    K classes:
        serving_default: images float32 [None, S, S, 3] in [0, 255]
            -> probabilities float32 [None, K]
        serving_bytes: image_bytes string [None], JPEG or PNG files of any sizes
            -> probabilities; the k = min(5, K) likeliest, top_classes string [None, k]
            and top_probabilities float32 [None, k]; ok bool [None], false where a row
            is no such picture, is damaged, or has more than 89,478,485 pixels: its
            answers are zeros, and those of the other rows do not change.

    For bytes the graph decodes and crops as evaluation does. Batch normalization is
    folded. An "onnx", "openvino" or "litert" file takes images and gives probabilities
    under the same names. The exported model is run by its own runtime on real pictures,
    and refused if its answers differ from those of the model in float32. labels.txt has
    the class names, one a line, with a line break in a name as \\n; model.json has what
    `engines.open_engine` needs. In a SavedModel both are in assets/. Beside versions of
    SavedModels models.config, batching.config and README.md for TensorFlow Serving are
    written, unless they exist.

    Args:
        model: of this package, with its top and normalization, trained in any policy.
        folder: of all the model's versions, created if it is missing.
        format: of `formats.FORMATS`.
        precision: "float32", whatever the model was trained in; or another that
            `formats.FORMATS` has for the format: "bfloat16", "int8".
        pictures: files to compare answers on; by default ten crops of a photograph.
        warm_up: whether to write the requests that TensorFlow Serving runs before it
            calls a version available; None: if tensorflow-serving-api is installed.
        say: gets a line about the comparison, and one if there is no warm-up.

    Raises:
        ModelError: a model without classifier or normalization in its graph, or one
            changed since it was built, as by `quantize` or `enable_lora`; a Keras
            backend other than TensorFlow; an unknown format or precision, or a missing
            package; an input that is not RGB of the protocol's size; a folder that has
            the last possible version; a disk that is full or fails; or answers that
            differ by more than the precision's tolerance.
        DataError: a picture to compare on that cannot be read.
    """
    _check(model, format, precision, warm_up)
    onednn.recommend()
    activation = model.info.classifier_activation
    activation = "softmax" if model.info.gives_logits else activation
    given, model = model, rebuild(model, classifier_activation=activation)
    note_random_weights(given)
    if model.info.config is None:
        say(f"{model.name}: batch normalization is not folded, as in a net of ours")
    images = comparing.photographs(model.info.protocol, pictures)
    folder = Path(folder)
    check_versions(folder, format)
    with _disk_errors(folder), partial_folder(folder) as partial:
        version = partial / "version"
        beside = _write(model, version, format, precision)
        with open_engine(version) as engine:
            difference = comparing.check(engine, in_float32(given), images)
        say(
            f"{format} in {precision}: off by at most {difference:.1e} in the "
            f"probabilities of {len(images)} pictures"
        )
        write_description(beside, model.info, format, precision, difference)
        if format == "savedmodel":
            _write_for_serving(model, folder, version, images, warm_up, say)
        return publish(version, folder)


def _write(model: ResNet, version: Path, format: str, precision: str) -> Path:
    """Writes the model, its labels and description; the folder of the latter two."""
    is_ours = model.info.config is not None
    if format == "savedmodel":
        net = fold_batch_norm(model, precision) if is_ours else model
        write_saved_model(net, version)
        beside = version / "assets"
    else:
        version.mkdir()
        # an OpenVINO file is in float32; its engine computes as it is told
        net = fold_batch_norm(model) if is_ours else model
        converters.write(net, version, format, precision)
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
    facts = {
        "variant": model.info.variant,
        "classes": model.info.classes,
        "size": model.info.protocol.size,
        "top": min(TOP_K, model.info.classes),
        "pixels": f"{MAX_PIXELS:,}",
    }
    tf_serving.write_beside(folder, facts)
    if warm_up or (warm_up is None and tf_serving.can_warm_up()):
        tf_serving.write_warm_up(version, tf_serving.model_name(folder), images[0])
    elif warm_up is None:
        say(
            "no warm-up requests, since tensorflow-serving-api is not installed: a "
            "server's first answer will be slow; `pip install keras-resnet-d[serving]`"
        )


@contextlib.contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Raises a failure of the disk, also in TensorFlow's errors, as a ModelError."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        if isinstance(error, tf.errors.OpError):
            reason = brief(error)
        else:
            reason = error.strerror or f"{error}"
        raise ModelError(f"{folder}: cannot be written: {reason}") from error


def _check(model: ResNet, format: str, precision: str, warm_up: bool | None) -> None:
    if keras.backend.backend() != "tensorflow":
        raise ModelError(
            f"backend={keras.backend.backend()!r}: models are exported on the "
            "TensorFlow backend; set KERAS_BACKEND=tensorflow"
        )
    _check_input(model)
    if not model.info.include_top or not model.info.include_preprocessing:
        raise ModelError(
            f"{model.name}: built with include_top={model.info.include_top}, "
            f"include_preprocessing={model.info.include_preprocessing}; "
            "serving needs both"
        )
    check_format(format, precision)
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
    """Every signature takes RGB of the size that the protocol names."""
    side, (height, width, channels) = model.info.protocol.size, model.input_shape[1:]
    if channels != 3:
        raise ModelError(
            f"{model.name}: takes pictures of {channels} channels, but an export takes "
            "RGB; create and train it with 3, since grey files are read as RGB too"
        )
    if {height, width} <= {None, side}:
        return
    remedy = "create it without input_shape"
    if height == width:
        remedy = (
            f"set its info to info.replace(protocol=Protocol({height})), or {remedy}"
        )
    raise ModelError(
        f"{model.name}: takes pictures of {height}x{width} pixels only, but its "
        f"protocol has size={side}; {remedy}"
    )
