"""A resnet50d on a GPU, in training and inference: ours on JAX and TensorFlow, timm's.

    python tools/benchmark_gpu.py [--python PY] [--json]    under 8 minutes
    python tools/benchmark_gpu.py --precision tf32          one of them alone
    python tools/benchmark_gpu.py --dry                     a tiny net, anywhere

In bfloat16, float16 and TF32, as far as the minutes reach. All sides start from the
same weights, and must agree on the loss of the untrained net and on those of five steps
on one batch before any is timed, in turns. Ours is NHWC and compiled by XLA; timm's is
compiled, in channels_last. Then each has pictures a second in training, in inference
and, of ours, in training on the real pipeline of JPEGs; its share of the largest matrix
product's TFLOP/s; and its memory. What this machine lacks is skipped, with a line: JAX
or torch is enough. --python names the Python that has torch and timm, where it is
another one.
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

import benchmark_input
import turns

if TYPE_CHECKING:
    import numpy as np

TRAIN, INFER, FED = "training, pictures/s", "inference, pictures/s", "fed, pictures/s"
MEMORY, PEAK = "memory, GB", "TFLOP/s"
CHECKED = 5  # steps whose losses must agree
# of a loss, relatively; half precision rounds otherwise in each framework
TOLERANCES = {"float32": 1e-3, "tf32": 1e-2, "bfloat16": 3e-2, "float16": 3e-2}
PRECISIONS = ("bfloat16", "float16", "tf32")
SECONDS = 8 * 60  # of the whole program
CLASSES = 1000
SGD: dict[str, Any] = {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}
SIZES = {  # net, side, batch, steps a turn, GMACs a picture
    "real": ("resnet50d", 224, 256, 30, 4.329),
    "dry": ("resnet18d", 64, 8, 2, 0.168),
}
GOAL = 1.0
Steps = Callable[[int], float]  # takes so many, and gives the loss of the first
# steps on one batch; as many answers to it, and their loss; steps on pictures of the
# pipeline, if there is one; bytes of memory
Net = tuple[Steps, Steps, Steps | None, Callable[[], int]]


def measure(
    rounds: int, python: str, kind: str, precisions: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """{"precision": {"products", "sides", "ratios"}, ...}."""
    begin = time.monotonic()
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    # the sides share one card
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
    # writes the weights; each side says its own
    os.environ["KERAS_BACKEND"] = "jax" if find_spec("jax") else "tensorflow"
    result: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        turns.run([sys.executable, __file__, "write", folder, kind])
        for precision in precisions:
            start = time.monotonic()
            one = (start - begin) / len(result) if result else 0.0
            if start - begin + one > SECONDS:
                turns.say(
                    f"{precision}: skipped: it would take {one:.0f} s more, and "
                    f"{SECONDS} are what there is; give --precision {precision}"
                )
                continue
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
    peak = max(
        turns.spread(answers, side, PEAK)[PEAK] for side in answers.keys() & PRODUCTS
    )
    sides = []
    for side, rows in nets.items():
        row: dict[str, Any] = {"side": side}
        for key, passes in ((TRAIN, 3), (INFER, 1)):  # backward is twice forward
            rate = turns.spread(nets, side, key)[key]
            share = rate * passes * 2 * gmacs / 1000 / peak
            row |= {key: rate, f"{key.split(',')[0]}, of the peak": share}
        row[FED] = turns.spread(nets, side, FED)[FED] if FED in rows[0] else ""
        row[MEMORY] = max(answer[MEMORY] for answer in rows)
        row["losses"] = ", ".join(f"{loss:.4f}" for loss in losses[side])
        sides.append(row)
    ratios = [
        {"side": side, "against": "timm", "of": key.split(",")[0]}
        | {**turns.ratios(nets, side, "timm", key), "goal": GOAL}
        for side in nets
        if side != "timm" and "timm" in nets
        for key in (TRAIN, INFER)
    ]
    return {"products": {PEAK: peak}, "sides": sides, "ratios": ratios}


def write(folder: Path, kind: str) -> None:
    """Weights in timm's dialect, and a batch."""
    import keras
    import numpy as np

    import keras_resnet

    name, side, batch, *_ = SIZES[kind]
    keras.utils.set_random_seed(0)
    model = keras_resnet.create(name, classes=CLASSES)
    keras_resnet.save_weights(model, folder / "timm.safetensors", dialect="timm")
    if find_spec("tensorflow"):
        benchmark_input.write_pictures(folder)
    else:
        turns.say("fed: skipped: the pipeline needs TensorFlow")
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (batch, side, side, 3), np.uint8)
    np.savez(folder / "batch.npz", images=images, labels=np.arange(batch) % CLASSES)


def _batch(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    with np.load(folder / "batch.npz") as file:
        return file["images"], file["labels"]


def ours(backend: str, folder: Path, kind: str, precision: str) -> Net:
    import keras
    import numpy as np

    if backend == "jax":
        import jax

        _need_gpu(kind, jax.default_backend() == "gpu")
        if precision != "float32":  # of what is float32
            jax.config.update("jax_default_matmul_precision", "tensorfloat32")
    else:
        import tensorflow as tf

        _need_gpu(kind, tf.config.list_physical_devices("GPU"))

    import keras_resnet
    from keras_resnet.optimizers import CoupledSGD
    from keras_resnet.train.trainable import Trainable

    # what `train.build` makes, which without TensorFlow cannot be imported
    if precision in ("bfloat16", "float16"):
        keras.config.set_dtype_policy(f"mixed_{precision}")
    name, side, batch, *_ = SIZES[kind]
    net = keras_resnet.create(name, classes=CLASSES, classifier_activation=None)
    keras_resnet.load_weights(net, folder / "timm.safetensors")
    model = Trainable(net)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(CoupledSGD(0.01, decay="all", **SGD), loss, jit_compile=True)
    images, classes = _batch(folder)
    labels = np.eye(CLASSES, dtype=np.float32)[classes]
    images = images.astype(np.float32)  # as the pipeline gives them

    if backend == "jax":
        pair = jax.device_put(images), jax.device_put(labels)

        def batches() -> Iterable[Any]:
            while True:
                yield pair

        # once: the net's own values go to the first step
        values = jax.tree.map(
            lambda v: jax.numpy.array(v.value, copy=True),
            (net.trainable_variables, net.non_trainable_variables),
            is_leaf=lambda it: isinstance(it, keras.Variable),
        )
        apply = jax.jit(lambda values, x: net.stateless_call(*values, x)[0])
        answer = partial(apply, values, pair[0])
    else:
        dataset = tf.data.Dataset.from_tensors((images, labels)).repeat()
        held = tf.constant(images)

        def batches() -> Iterable[Any]:
            return dataset.prefetch(2)

        apply = tf.function(lambda x: net(x, training=False), jit_compile=True)
        answer = partial(apply, held)

    def fit(data: Iterable[Any], count: int) -> float:
        history = model.fit(data, steps_per_epoch=count, verbose=0)
        return history.history["loss"][0]

    def infer(count: int) -> float:
        for _ in range(count):
            logits = answer()
        return float(loss(labels, keras.ops.convert_to_numpy(logits)))

    def memory() -> int:
        if backend == "jax":
            return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
        if not tf.config.list_physical_devices("GPU"):
            return 0
        return tf.config.experimental.get_memory_info("GPU:0")["peak"]

    fed = None
    if (folder / "photos").is_dir():
        fed = partial(fit, _pipeline(folder, side, batch))
    return (lambda count: fit(batches(), count)), infer, fed, memory


def _pipeline(folder: Path, side: int, batch: int) -> Any:
    """Batches of the real pictures, with labels of the net's width."""
    import tensorflow as tf

    from keras_resnet import RECIPES, data

    recipe = RECIPES["efficient"].replace(train_size=side, batch_size=batch)
    batches = data.train_batches(folder / "photos", recipe)
    return batches.map(
        lambda images, labels: (
            tf.cast(images, tf.float32),
            tf.pad(labels, [[0, 0], [0, CLASSES - labels.shape[1]]]),
        )
    ).prefetch(2)


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
    half = precision in ("bfloat16", "float16")
    dtype = getattr(torch, precision) if half else torch.float32
    if precision == "tf32":
        torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    mean, std = (
        255 * torch.tensor(model.default_cfg[key], device=device)[:, None, None]
        for key in ("mean", "std")
    )

    @torch.compile
    def loss_of(model: Any, images: Any, labels: Any) -> Any:
        pixels = (images.permute(0, 3, 1, 2).float() - mean) / std
        with torch.autocast(device, dtype, enabled=half):
            return torch.nn.functional.cross_entropy(model(pixels), labels)

    def steps(count: int) -> float:
        model.train()
        losses = []
        for _ in range(count):
            loss = loss_of(model, images, labels)
            losses.append(loss.detach())
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        float(loss)  # waits for the device
        return float(losses[0])

    twin = timm.create_model(name, checkpoint_path=folder / "timm.safetensors")
    twin = twin.eval().to(device, dtype, memory_format=torch.channels_last)
    twin = torch.compile(twin)

    def infer(count: int) -> float:
        with torch.inference_mode():
            for _ in range(count):
                pixels = (images.permute(0, 3, 1, 2).float() - mean) / std
                logits = twin(pixels.to(dtype)).float()
            return float(torch.nn.functional.cross_entropy(logits, labels))

    def memory() -> int:
        return torch.cuda.max_memory_allocated() if cuda else 0

    return steps, infer, None, memory


def products(framework: str, folder: Path, kind: str, precision: str) -> turns.Round:
    """TFLOP/s of a large matrix product."""
    side = 8192 if kind == "real" else 1024
    if framework == "jax":
        import jax

        _need_gpu(kind, jax.default_backend() == "gpu")
        if precision != "float32":  # of what is float32
            jax.config.update("jax_default_matmul_precision", "tensorfloat32")
        numbers = jax.random.normal(jax.random.key(0), [side, side])
        numbers = numbers.astype("float32" if precision == "tf32" else precision)
        multiply = jax.jit(numbers.__matmul__)

        def wait(product: Any) -> None:
            product.block_until_ready()
    else:
        import torch

        _need_gpu(kind, torch.cuda.is_available())
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if precision == "tf32":
            torch.set_float32_matmul_precision("high")
        dtype = getattr(torch, "float32" if precision == "tf32" else precision)
        numbers = torch.randn(side, side, device=device, dtype=dtype)

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
        steps, infer, fed, memory = NETS[name](folder, kind, precision)
        losses = [infer(1), *(steps(1) for _ in range(CHECKED))]
        works = {TRAIN: steps, INFER: infer} | ({FED: fed} if fed else {})

        def work() -> dict[str, Any]:
            answer: dict[str, Any] = {"losses": losses}
            for key, take in works.items():
                take(2)
                begin = time.perf_counter()
                take(count)
                answer[key] = count * batch / (time.perf_counter() - begin)
            return {**answer, MEMORY: memory() / 1e9}

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
    parser.add_argument(
        "--precision", action="append", choices=PRECISIONS, help="this one, and others"
    )
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    kind = "dry" if options.dry else "real"
    precisions = options.precision or (["float32"] if options.dry else PRECISIONS)
    measured = measure(options.rounds, options.python, kind, precisions)
    result = {**turns.machine(), **measured}
    print(json.dumps(result) if options.json else turns.tables(result))


if __name__ == "__main__":
    main()
