"""A model -> what servers and other runtimes run, checked, then numbered."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import tensorflow as tf

from keras_resnet import files, onednn
from keras_resnet.backend import keras
from keras_resnet.data.transforms.decode import MAX_PIXELS
from keras_resnet.errors import ModelError
from keras_resnet.evaluate.prediction import class_names
from keras_resnet.export import converters, tf_serving
from keras_resnet.export.engines import (
    DESCRIPTION,
    FILES,
    FORMATS,
    describe,
    open_engine,
)
from keras_resnet.export.folding import fold_batch_norm
from keras_resnet.export.numbering import LAST, version_folders, versions
from keras_resnet.export.signatures import TOP_K, write_saved_model
from keras_resnet.model import ResNet, in_float32, note_random_weights, rebuild

__all__ = ["fold_batch_norm", "save", "versions"]

LABELS = "labels.txt"
_PARTIAL = ".export."  # and eight letters: the folder of an export that is not whole
_LINES = re.compile("[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")  # that end a line


def save(
    model: ResNet,
    folder,
    format: str = "savedmodel",
    precision: str = "float32",
    pictures: Sequence = (),
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
            is no such picture, is damaged, or has more than 89,478,485 pixels: that
            row's answers are zeros, and the others' what they would be without it.

    For bytes the graph decodes and crops as evaluation does. Batch normalisation is
    folded. An "onnx", "openvino" or "litert" file takes images and gives probabilities
    under the same names. What is written is run by its own runtime on real pictures,
    and refused if it answers otherwise than the model in float32. labels.txt has the
    class names, one a line, a line break within one as \\n, and model.json what
    `engines.open_engine` wants, in a SavedModel in assets/. Beside the versions of
    SavedModels come models.config, batching.config and README.md for TensorFlow
    Serving, where there are none.

    Args:
        model: of this package, with its top and normalisation, trained in any policy.
        folder: of all the model's versions, made if need be.
        format: of `engines.FORMATS`.
        precision: "float32", whatever the model was trained in; or what else
            `engines.FORMATS` has for the format: "bfloat16", "int8".
        pictures: files to compare answers on; by default ten crops of a photograph.
        warm_up: with the requests that TensorFlow Serving runs before it calls a
            version available; None: where tensorflow-serving-api is installed.
        say: gets a line about the comparison, and one if there is no warm-up.

    Raises:
        ModelError: a model without classifier or normalisation in its graph, or one
            changed since it was built, as by `quantize` or `enable_lora`; a Keras
            backend that is not TensorFlow; a format or precision that there is not, or
            a package that it needs; pictures of other channels or size than RGB and the
            protocol's; a folder that has the last of all versions; a disk that is full
            or fails; or answers that are off.
        DataError: a picture to compare on that cannot be read.
    """
    _check(model, format, precision, warm_up)
    onednn.recommend()
    activation = model.info.classifier_activation
    activation = "softmax" if model.info.gives_logits else activation
    given, model = model, rebuild(model, classifier_activation=activation)
    note_random_weights(given)
    images = converters.photographs(model.info.protocol, pictures)
    folder = Path(folder)
    _check_versions(folder, format)
    with _disk_errors(folder), _partial(folder) as partial:
        version = partial / "version"
        beside = _write(model, version, format, precision)
        with open_engine(version) as engine:
            difference = converters.check(engine, in_float32(given), images)
        say(
            f"{format} in {precision}: off by at most {difference:.1e} in the "
            f"probabilities of {len(images)} pictures"
        )
        said = {**describe(model, format, precision), "difference": difference}
        (beside / DESCRIPTION).write_text(json.dumps(said, indent=1))
        if format == "savedmodel":
            _write_for_serving(model, folder, version, images, warm_up, say)
        return _publish(version, folder)


def _write(model, version, format, precision) -> Path:
    """The model and its labels; the folder for what describes it."""
    if format == "savedmodel":
        write_saved_model(fold_batch_norm(model, precision), version)
        beside = version / "assets"
    else:
        version.mkdir()
        # an OpenVINO file is in float32; its engine computes as it is told
        converters.write(fold_batch_norm(model), version, format, precision)
        beside = version
    beside.mkdir(exist_ok=True)
    names = [_LINES.sub(_escaped, name) for name in class_names(model)]
    labels = "".join(f"{name}\n" for name in names)
    (beside / LABELS).write_text(labels, encoding="utf8", errors="surrogateescape")
    said = describe(model, format, precision)
    (beside / DESCRIPTION).write_text(json.dumps(said, indent=1))
    return beside


def _escaped(found):
    return found[0].encode("unicode_escape").decode()


def _write_for_serving(model, folder, version, images, warm_up, say):
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
            "no warm-up requests, for want of tensorflow-serving-api: the first answer "
            "of a server will be slow; `pip install keras-resnet-d[serving]`"
        )


@contextlib.contextmanager
def _disk_errors(folder) -> Iterator[None]:
    """What a disk says, in one line: TensorFlow has errors of its own for that."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        if isinstance(error, tf.errors.OpError):
            reason = converters.brief(error)
        else:
            reason = error.strerror or f"{error}"
        raise ModelError(f"{folder}: cannot be written: {reason}") from error


@contextlib.contextmanager
def _partial(folder) -> Iterator[Path]:
    """A hidden folder in `folder`, gone afterwards; one export at a time."""
    import fcntl  # not on Windows, where the rest of the package works

    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    partial = None
    try:
        # `_publish` is safe without it too
        if files.lock(handle, fcntl.LOCK_EX):
            for killed in filter(_is_ours, folder.iterdir()):
                shutil.rmtree(killed)
        partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=folder))
        yield partial
        files.sync(folder)
    finally:
        if partial:
            shutil.rmtree(partial, ignore_errors=True)
        os.close(handle)


def _is_ours(path) -> bool:
    """Whether a path is what a killed export left: of its name, and nothing else in it.

    Anybody may keep hidden folders beside the versions.
    """
    if path.is_symlink() or not path.is_dir():
        return False
    # as tempfile.mkdtemp names it
    is_named = re.fullmatch(re.escape(_PARTIAL) + "[a-z0-9_]{8}", path.name)
    return bool(is_named) and {it.name for it in path.iterdir()} <= {"version"}


def _publish(version, folder) -> Path:
    """Gives a whole version the next number, at once: a server polls the folder."""
    for path in [*version.rglob("*"), version]:
        files.sync(path)
    number = 0
    while True:
        # beyond a file of that name too, which is no version
        number = max(number, *versions(folder), 0) + 1
        if number > LAST:
            raise _has_no_more(folder)
        target = folder / str(number)
        try:
            os.rename(version, target)
        except OSError:
            if not target.exists():  # else another machine's export was faster
                raise
        else:
            return target


def _check_versions(folder, format):
    """A server that polls a folder takes its newest version for a SavedModel."""
    for number, name in version_folders(folder).items():
        if number == LAST:
            raise _has_no_more(folder)
        for other, file in FILES.items():
            if other != format and (folder / name / file).is_file():
                raise ModelError(
                    f"{folder}: version {number} is of format={other!r}; must be "
                    f"another folder for {format!r}"
                )


def _has_no_more(folder):
    return ModelError(
        f"{folder}: has version {LAST}, the last that there can be; give another "
        "folder, or give that version another number"
    )


def _check(model, format, precision, warm_up):
    if keras.backend.backend() != "tensorflow":
        raise ModelError(
            f"backend={keras.backend.backend()!r}: models are exported on the "
            "TensorFlow backend; set KERAS_BACKEND=tensorflow"
        )
    _check_pictures(model)
    if not model.info.include_top or not model.info.include_preprocessing:
        raise ModelError(
            f"{model.name}: built with include_top={model.info.include_top}, "
            f"include_preprocessing={model.info.include_preprocessing}; "
            "serving needs both"
        )
    converters.check_format(format, precision, FORMATS)
    if warm_up and format != "savedmodel":
        raise ModelError(f"warm_up=True with format={format!r}: is for 'savedmodel'")
    if warm_up and not tf_serving.can_warm_up():
        raise ModelError(
            "warm_up=True: needs the package tensorflow-serving-api; run `pip install "
            "keras-resnet-d[serving]`"
        )


def _check_pictures(model):
    """Every signature takes RGB of the size that the protocol names."""
    side, (height, width, channels) = model.info.protocol.size, model.input_shape[1:]
    if channels != 3:
        raise ModelError(
            f"{model.name}: takes pictures of {channels} channels, but an export takes "
            "RGB; create and train it with 3, as which grey files are read too"
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
