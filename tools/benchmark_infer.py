"""Pictures a second of an exported resnet50d, beside Keras's own export and peers.

What `tools/benchmark.py infer` runs. All sides but KerasHub's have the same weights,
and answer alike before they are timed. Ours run as `keras-resnet serve` runs them, the
others as they come.

    python benchmark_infer.py write FOLDER         the files that the sides open
    python benchmark_infer.py SIDE FOLDER BATCH    a side, as turns.answer has it
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import benchmark_input
import turns

if TYPE_CHECKING:
    import numpy as np

    Work = Callable[[np.ndarray], Any]  # a batch of images -> what it answers

MODEL, SIZE, GMACS = "resnet50d", 224, 4.329
BATCHES = (16, 1)
SECONDS = 3.0  # of a side's turn
PRODUCT = 4096  # the side of matrices, for the machine's peak
RATE = "pictures/s"
# root of the mean squared difference from plain Keras's float32 in a logarithm of a
# probability, of the deviation of these: another net's is above 1
TOLERANCES = {"float32": 1e-3, "bfloat16": 0.3, "int8": 0.5}
CALIBRATED = 64  # images that int8 is calibrated on
GOALS = [  # batch, side, against, goal
    (16, "ours bfloat16", "plain Keras float32", 4.0),
    (1, "ours bfloat16", "plain Keras float32", 2.5),
    (16, "ours float32", "plain Keras float32", 1.1),
    (16, "ours int8, OpenVINO", "ours float32", 2.0),
    (1, "ours int8, OpenVINO", "ours float32", 2.0),
    (16, "ours bfloat16", "KerasHub bfloat16", 2.0),
    (16, "ours bfloat16", "KerasHub bfloat16, predict", 2.0),
    (16, "ours float32", "KerasHub float32", 2.0),
    (16, "ours float32", "KerasHub float32, predict", 2.0),
    (16, "ours bfloat16", "timm bfloat16, eager", 1.2),
    (16, "ours bfloat16", "timm bfloat16, compiled", 1.0),
    (16, "ours bfloat16", "OpenVINO bfloat16", 1.0),
    (1, "ours bfloat16", "OpenVINO bfloat16", 0.8),
]


def measure(
    rounds: int,
    python: str | None = None,
    only: Sequence[str] = (),
    batches: Sequence[int] = BATCHES,
) -> dict[str, dict[str, turns.Rows]]:
    """{"batch N": {"sides", "ratios"}}, each a list of rows."""
    os.environ.update(benchmark_input.QUIET)  # the sides inherit it
    with tempfile.TemporaryDirectory() as folder:
        turns.run([sys.executable, __file__, "write", folder])
        return {
            f"batch {batch}": _measure(folder, batch, rounds, python, only)
            for batch in batches
        }


def _measure(
    folder: str, batch: int, rounds: int, python: str | None, only: Sequence[str]
) -> dict[str, turns.Rows]:
    only = [*only, *PEAKS] if only else ()
    answers = turns.take(__file__, SIDES, [folder, batch], rounds, python, only)
    peaks = {name: turns.spread(answers, name, RATE)[RATE] for name in PEAKS}
    sides = []
    for name in answers:
        spread = turns.spread(answers, name, RATE)
        peak = peaks.get(f"products {precision_of(name)}")
        share = {"of peak": 2 * GMACS * spread[RATE] / peak} if peak else {}
        share = {} if name in PEAKS else share
        sides.append({"side": name, **spread, **share})
    ratios = [
        {"side": name, "against": base, **turns.ratios(answers, name, base, RATE)}
        | {"goal": goal}
        for of, name, base, goal in GOALS
        if of == batch and name in answers and base in answers
    ]
    return {"sides": sides, "ratios": ratios}


def write(folder: Path) -> None:
    """Weights, pictures and answers, and the exports of all that is installed."""
    import keras
    import numpy as np

    import keras_resnet
    from keras_resnet import export
    from keras_resnet.errors import ModelError
    from keras_resnet.export import converters, signatures
    from keras_resnet.model import rebuild

    random = np.random.default_rng(0)
    images = random.uniform(0, 255, (max(BATCHES), SIZE, SIZE, 3)).astype(np.float32)
    np.save(folder / "images.npy", images)
    keras.utils.set_random_seed(0)
    model = keras_resnet.create(MODEL)
    for variable in model.weights:  # zero gammas would hide a branch from the check
        if variable.path.endswith("gamma"):
            variable.assign(random.uniform(0.5, 1.5, variable.shape))
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(images, training=True)  # statistics with which the answers differ
    keras_resnet.save_weights(model, folder / "timm.safetensors", dialect="timm")
    config = model.info.config.replace(fused_batch_norm=False)
    plain = rebuild(model, config=config)
    np.save(folder / "answers.npy", plain.predict(images, verbose=0))
    _export_plainly(plain, folder / "plain Keras float32")
    folded = {name: export.fold_batch_norm(model, name) for name in FLOATS}
    for precision, net in folded.items():
        signatures.write_saved_model(net, folder / f"ours {precision}")
    seen = random.uniform(0, 255, (CALIBRATED, SIZE, SIZE, 3)).astype(np.uint8)
    calibrations = {"float32": None, "int8": converters.Calibration(seen)}
    for format in ("onnx", "openvino"):
        for precision, calibration in calibrations.items():
            about = (format, precision, calibration)
            (folder / f"{format} {precision}").mkdir()
            try:
                net = folded["float32"]
                converters.write(net, folder / f"{format} {precision}", *about)
            except ModelError as error:
                print(error, file=sys.stderr)
    for precision in ("float32", "bfloat16"):
        try:
            hub = keras_hub(precision)
        except ImportError as error:
            print(error, file=sys.stderr)
        else:
            _export_plainly(hub, folder / f"KerasHub {precision}")


def keras_hub(precision: str) -> Any:
    """KerasHub's net of these layers, of random weights."""
    import keras_hub

    backbone = keras_hub.models.ResNetBackbone(
        input_conv_filters=[32, 32, 64],
        input_conv_kernel_sizes=[3, 3, 3],
        stackwise_num_filters=[64, 128, 256, 512],
        stackwise_num_blocks=[3, 4, 6, 3],
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="bottleneck_block_vd",
        image_shape=(None, None, 3),
        dtype=precision if precision == "float32" else f"mixed_{precision}",
    )
    return keras_hub.models.ResNetImageClassifier(
        backbone, num_classes=1000, activation="softmax"
    )


def _export_plainly(model: Any, path: Path) -> None:
    """As Keras's `export` does, with a name for the output."""
    import tensorflow as tf
    from keras.export import ExportArchive

    archive = ExportArchive()
    archive.track(model)
    pixels = tf.TensorSpec([None, SIZE, SIZE, 3], tf.float32, "images")
    archive.add_endpoint(
        "serving_default",
        lambda images: {"probabilities": model(images, training=False)},
        input_signature=[pixels],
    )
    archive.write_out(path, verbose=False)


def saved_model(name: str, folder: Path) -> Work:
    from keras_resnet.export.savedmodel import SavedModel

    if not (folder / name).is_dir():
        raise ImportError(f"{name} is not installed")
    model = SavedModel(folder / name)
    return lambda images: model.run("serving_default", images=images)["probabilities"]


def exported(format: str, precision: str, folder: Path) -> Work:
    from keras_resnet.errors import ModelError
    from keras_resnet.export import formats, runtimes

    try:
        stored = "int8" if precision == "int8" else "float32"
        path = folder / f"{format} {stored}" / formats.FILES[format]
        return runtimes.start(format, path, precision)[1]
    except ModelError as error:
        raise ImportError(error) from error


def hub_predict(precision: str, folder: Path) -> Work:
    model = keras_hub(precision)
    return lambda images: model.predict(images, batch_size=len(images), verbose=0)


def timm(precision: str, compiled: bool, folder: Path) -> Work:
    import timm
    import torch

    model = timm.create_model(MODEL, checkpoint_path=folder / "timm.safetensors")
    model = model.eval().to(memory_format=torch.channels_last)
    if precision == "bfloat16":
        model = model.bfloat16()
    if compiled:
        model = torch.compile(model)
    mean, std = (
        255 * torch.tensor(model.default_cfg[key])[:, None, None]
        for key in ("mean", "std")
    )

    def answer(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
            pixels = ((pixels - mean) / std).to(next(model.parameters()).dtype)
            return model(pixels).float().softmax(1).numpy()

    return answer


def products(dtype: str, folder: Path) -> Work:
    """As GFLOP/s: a large matrix product, in TensorFlow."""
    import tensorflow as tf

    shape = [PRODUCT, PRODUCT]
    left, right = (tf.cast(tf.random.normal(shape), dtype) for _ in range(2))
    return lambda images: (left @ right)[0, 0].numpy()


def precision_of(side: str) -> str:
    return next(name for name in TOLERANCES if name in side)


FLOATS = ("float32", "bfloat16")
PEAKS = {f"products {dtype}": partial(products, dtype) for dtype in FLOATS}
SIDES: dict[str, Callable] = PEAKS | {
    "ours float32": partial(saved_model, "ours float32"),
    "ours bfloat16": partial(saved_model, "ours bfloat16"),
    "ours int8, OpenVINO": partial(exported, "openvino", "int8"),
    "ours int8, ONNX Runtime": partial(exported, "onnx", "int8"),
    "plain Keras float32": partial(saved_model, "plain Keras float32"),
    "KerasHub float32": partial(saved_model, "KerasHub float32"),
    "KerasHub bfloat16": partial(saved_model, "KerasHub bfloat16"),
    "KerasHub float32, predict": partial(hub_predict, "float32"),
    "KerasHub bfloat16, predict": partial(hub_predict, "bfloat16"),
    "OpenVINO float32": partial(exported, "openvino", "float32"),
    "OpenVINO bfloat16": partial(exported, "openvino", "bfloat16"),
    "ONNX Runtime float32": partial(exported, "onnx", "float32"),
    "timm float32, eager": partial(timm, "float32", False),
    "timm float32, compiled": partial(timm, "float32", True),
    "timm bfloat16, eager": partial(timm, "bfloat16", False),
    "timm bfloat16, compiled": partial(timm, "bfloat16", True),
}


def main() -> None:
    """Writes the files, or is a side."""
    name, path, *rest = sys.argv[1:]
    folder = Path(path)
    if name == "write":
        write(folder)
        return

    if name.startswith("ours"):
        from keras_resnet.serve.production import ENVIRONMENT

        os.environ.update(ENVIRONMENT | os.environ)

    def start() -> turns.Round:
        import numpy as np

        images = np.load(folder / "images.npy")[: int(rest[0])]
        work = SIDES[name](folder)
        answer = work(images)
        if name not in PEAKS and "Hub" not in name:
            truth = np.log(np.load(folder / "answers.npy")[: len(images)])
            off = np.sqrt(np.square(np.log(answer) - truth).mean()) / truth.std()
            if not off <= TOLERANCES[precision_of(name)]:
                raise ValueError(f"{name}: its answers are off by {off:.1e}")
            print(f"off by {off:.1e}", file=sys.stderr)
        amount = 2e-9 * PRODUCT**3 if name in PEAKS else len(images)
        return lambda: {RATE: amount * rate(work, images)}

    turns.answer(start)


def rate(work: Work, images: np.ndarray) -> float:
    """Answers a second."""
    start, count, end = time.perf_counter(), 0, 0.0
    while end < start + SECONDS:
        work(images)
        count, end = count + 1, time.perf_counter()
    return count / (end - start)


if __name__ == "__main__":
    main()
