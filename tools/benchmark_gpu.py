"""Training steps of a resnet50d on a GPU: ours on JAX and TensorFlow, and timm's.

    python tools/benchmark_gpu.py [--python PY] [--json]    under 8 minutes
    python tools/benchmark_gpu.py --dry                     a tiny net, anywhere

All sides start from the same weights and must agree on the losses of five steps on one
batch before any is timed, in turns; then each prints pictures a second, TFLOP/s, their
share of the largest matrix product's, and memory. What this machine lacks is skipped,
with a line. --python names the Python that has torch and timm, where it is another one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import turns

if TYPE_CHECKING:
    import numpy as np

RATE, MEMORY, PEAK = "pictures/s", "memory, GB", "TFLOP/s"
CHECKED = 5  # steps whose losses must agree
# of a loss, relatively; half precision rounds otherwise in each framework
TOLERANCES = {"float32": 1e-3, "bfloat16": 3e-2, "float16": 3e-2}
CLASSES, SGD = 1000, {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}
SIZES = {  # net, side, batch, steps a turn, GMACs a picture
    "real": ("resnet50d", 224, 256, 30, 4.329),
    "dry": ("resnet18d", 64, 8, 2, 0.168),
}
GOAL = 1.0
# a training step's loss, that of the first of so many steps, bytes of memory
Net = tuple[Callable[[], float], Callable[[int], float], Callable[[], int]]


def measure(rounds: int, python: str, kind: str) -> dict[str, dict[str, Any]]:
    """{"precision": {"sides", "ratios"}, ...}."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    # the sides share one card
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
    # writes the weights; each side says its own
    os.environ["KERAS_BACKEND"] = "jax" if find_spec("jax") else "tensorflow"
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        turns.run([sys.executable, __file__, "write", folder, kind])
        precisions = ["bfloat16", "float16"] if kind == "real" else ["float32"]
        for precision in precisions:
            arguments = folder, kind, precision
            answers = turns.take(__file__, SIDES, arguments, rounds, python)
            result[precision] = _compare(answers, kind, precision)
    return result


def _compare(
    answers: Mapping[str, Sequence[Mapping[str, Any]]], kind: str, precision: str
) -> dict[str, Any]:
    *_, gmacs = SIZES[kind]
    nets = {side: rows for side, rows in answers.items() if side not in PRODUCTS}
    if not nets or len(nets) == len(answers):
        sys.exit("neither JAX nor torch sees a GPU here; --dry runs anywhere")
    losses = {side: rows[0]["losses"] for side, rows in nets.items()}
    first = next(iter(losses.values()))
    off = [abs(a / b - 1) for them in losses.values() for a, b in zip(them, first)]
    if not max(off) <= TOLERANCES[precision]:
        sys.exit(f"{precision}: the losses do not agree: {losses}")
    peaks = [
        turns.spread(answers, side, PEAK)[PEAK] for side in answers.keys() & PRODUCTS
    ]
    sides = []
    for side in nets:
        row: dict[str, Any] = {"side": side, **turns.spread(nets, side, RATE)}
        row[PEAK] = row[RATE] * 3 * 2 * gmacs / 1000  # backward is twice forward
        row["of the products' peak"] = row[PEAK] / max(peaks)
        row[MEMORY] = max(answer[MEMORY] for answer in nets[side])
        sides.append(
            {**row, "losses": ", ".join(f"{loss:.4f}" for loss in losses[side])}
        )
    ratios = [
        {"side": side, "against": "timm", **turns.ratios(nets, side, "timm", RATE)}
        | {"goal": GOAL}
        for side in nets
        if side != "timm" and "timm" in nets
    ]
    return {"products": {PEAK: max(peaks)}, "sides": sides, "ratios": ratios}


def write(folder: Path, kind: str) -> None:
    """Weights in timm's dialect, and a batch."""
    import keras
    import numpy as np

    import keras_resnet

    name, side, batch, *_ = SIZES[kind]
    keras.utils.set_random_seed(0)
    model = keras_resnet.create(name, classes=CLASSES)
    keras_resnet.save_weights(model, folder / "timm.safetensors", dialect="timm")
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (batch, side, side, 3), np.uint8)
    np.savez(folder / "batch.npz", images=images, labels=np.arange(batch) % CLASSES)


def _batch(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    with np.load(folder / "batch.npz") as file:
        return file["images"], file["labels"]


def ours(backend: str, folder: Path, kind: str, precision: str) -> Net:
    """(a training step's loss, steps without reading any, memory)."""
    import numpy as np

    if backend == "jax":
        import jax

        _need_gpu(kind, jax.default_backend() == "gpu")
    else:
        import tensorflow as tf

        _need_gpu(kind, tf.config.list_physical_devices("GPU"))

    from keras_resnet import RECIPES
    from keras_resnet.train.build import build

    name, side, batch, *_ = SIZES[kind]
    recipe = RECIPES["efficient"].replace(
        model=name,
        batch_size=batch,
        train_size=side,
        base_rate=0.01 * 256 / batch,
        schedule="plateau",  # a constant rate
        warmup_epochs=0.0,
        decay="all",
        precision=precision if precision == "float32" else f"mixed_{precision}",
        weights=str(folder / "timm.safetensors"),
        **SGD,
    )
    model = build(recipe, [str(number) for number in range(CLASSES)], 100).model
    images, labels = _batch(folder)
    labels = np.eye(CLASSES, dtype=np.float32)[labels]
    if backend == "jax":
        pair = jax.device_put(images), jax.device_put(labels)

        def batches() -> Iterable[Any]:
            while True:
                yield pair
    else:
        dataset = tf.data.Dataset.from_tensors((images, labels)).repeat()

        def batches() -> Iterable[Any]:
            return dataset.prefetch(2)

    def steps(count: int) -> float:
        history = model.fit(batches(), steps_per_epoch=count, verbose=0)
        return history.history["loss"][0]

    def memory() -> int:
        if backend == "jax":
            return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
        if not tf.config.list_physical_devices("GPU"):
            return 0
        return tf.config.experimental.get_memory_info("GPU:0")["peak"]

    return partial(steps, 1), steps, memory


def _need_gpu(kind: str, there: object) -> None:
    if kind == "real" and not there:
        raise ImportError("it sees no GPU")


def timm(folder: Path, kind: str, precision: str) -> Net:
    import timm
    import torch

    cuda = torch.cuda.is_available()
    _need_gpu(kind, cuda)
    device = "cuda" if cuda else "cpu"
    torch.backends.cudnn.benchmark = True
    name, *_ = SIZES[kind]
    model = timm.create_model(name, checkpoint_path=folder / "timm.safetensors")
    model = model.train().to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, **SGD)
    scaler = torch.amp.GradScaler(device, enabled=precision == "float16" and cuda)
    images, labels = (torch.from_numpy(array).to(device) for array in _batch(folder))
    mean, std = (
        255 * torch.tensor(model.default_cfg[key], device=device)[:, None, None]
        for key in ("mean", "std")
    )

    @torch.compile
    def loss_of(images: Any, labels: Any) -> Any:
        pixels = (images.permute(0, 3, 1, 2).float() - mean) / std
        with torch.autocast(
            device, getattr(torch, precision), enabled=precision != "float32"
        ):
            return torch.nn.functional.cross_entropy(model(pixels), labels)

    def steps(count: int) -> float:
        for _ in range(count):
            loss = loss_of(images, labels)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        return float(loss)  # waits for the device

    def memory() -> int:
        return torch.cuda.max_memory_allocated() if cuda else 0

    return partial(steps, 1), steps, memory


def products(framework: str, folder: Path, kind: str, precision: str) -> turns.Round:
    """TFLOP/s of a large matrix product."""
    side = 8192 if kind == "real" else 1024
    if framework == "jax":
        import jax

        _need_gpu(kind, jax.default_backend() == "gpu")
        numbers = jax.random.normal(jax.random.key(0), [side, side]).astype(precision)
        multiply = jax.jit(numbers.__matmul__)

        def wait(product: Any) -> None:
            product.block_until_ready()
    else:
        import torch

        _need_gpu(kind, torch.cuda.is_available())
        device = "cuda" if torch.cuda.is_available() else "cpu"
        numbers = torch.randn(
            side, side, device=device, dtype=getattr(torch, precision)
        )

        multiply = numbers.__matmul__

        def wait(product: Any) -> None:
            float(product[0, 0])

    def work() -> dict[str, float]:
        wait(multiply(numbers))
        start, count = time.perf_counter(), 20
        for _ in range(count):
            last = multiply(numbers)
        wait(last)
        return {PEAK: count * 2e-12 * side**3 / (time.perf_counter() - start)}

    return work


PRODUCTS: dict[str, Callable] = {
    "products, JAX": partial(products, "jax"),
    "timm's torch, products": partial(products, "torch"),
}
NETS: dict[str, Callable] = {
    "ours, JAX": partial(ours, "jax"),
    "ours, TensorFlow": partial(ours, "tensorflow"),
    "timm": timm,
}
SIDES = {**PRODUCTS, **NETS}


def take_part(name: str, folder: Path, kind: str, precision: str) -> None:
    """A side, as turns.answer has it."""
    if name in PRODUCTS:
        turns.answer(lambda: PRODUCTS[name](folder, kind, precision))
        return
    os.environ["KERAS_BACKEND"] = "jax" if "JAX" in name else "tensorflow"
    _, _, batch, count, _ = SIZES[kind]

    def start() -> turns.Round:
        step, steps, memory = NETS[name](folder, kind, precision)
        losses = [step() for _ in range(CHECKED)]

        def work() -> dict[str, Any]:
            steps(2)
            begin = time.perf_counter()
            steps(count)
            seconds = time.perf_counter() - begin
            rate = {RATE: count * batch / seconds, MEMORY: memory() / 1e9}
            return {**rate, "losses": losses}

        return work

    turns.answer(start)


def main() -> None:
    """What the command line says."""
    if {*sys.argv[1:2]} & {"write", *SIDES}:  # for this program's own use
        name, folder, *rest = sys.argv[1:]
        (write if name == "write" else partial(take_part, name))(Path(folder), *rest)
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    kind = "dry" if options.dry else "real"
    result = {**turns.machine(), **measure(options.rounds, options.python, kind)}
    print(json.dumps(result) if options.json else turns.tables(result))


if __name__ == "__main__":
    main()
