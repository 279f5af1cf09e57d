"""The time of an epoch against the number of devices: a model of it, and its check.

    python tools/scaling.py predict [--rate 2500] [--input 20000] [--link 300] ...
    python tools/scaling.py measure [--rounds 1]    about 8 minutes on two cores

A step of n devices, each with its own part of the batch, takes

    max(part / rate, part x devices of a machine / input)
    + 2 (n - 1) / n x bytes of the gradients / link + messages x latency

The second term is a ring all-reduce. The third is that of batch normalization, whose
statistics of the whole batch take four messages a layer. Nothing is taken to overlap,
so that the model is a bound from above. `measure` checks it with one and with two
processes of JAX, each on a core of its own, connected by the loopback device: it
measures the step of one, an all-reduce of the gradients alone and a small message, and
compares the step of two with what the model says.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

MODEL, SIDE, PART, CLASSES, STEPS = "resnet50d", 128, 8, 1000, 6
IMAGENET = 1_281_167  # training images
FIELDS = ("step", "reduce", "message")


def step_seconds(
    devices: int,
    part: int,
    rate: float,
    fed: float,
    per_machine: int,
    gradients: float,
    link: float,
    messages: int,
    latency: float,
) -> float:
    """The seconds of a step, as the module's docstring has it.

    Args:
        devices: how many.
        part: images of a device.
        rate: images a second of a device.
        fed: images a second that a machine can decode and augment.
        per_machine: devices of a machine.
        gradients: in bytes.
        link: bytes a second between two devices of the ring.
        messages: small all-reduces in a step.
        latency: of one, in seconds.
    """
    inside = min(devices, per_machine)
    compute = max(part / rate, part * inside / fed)
    if devices == 1:
        return compute
    share = 2 * (devices - 1) / devices
    return compute + share * gradients / link + messages * latency


def predict(arguments: argparse.Namespace) -> None:
    size, messages = _sizes()
    print(
        f"{MODEL}: {size / 1e6:.1f} MB of gradients, {messages} small messages; "
        f"{arguments.rate:g} images/s a device with batches of {arguments.part} "
        f"(given, not measured), input {arguments.input:g} images/s a machine"
    )
    print("| devices | step, ms | images/s | efficiency | epoch of ImageNet |")
    print("|---:|---:|---:|---:|---:|")
    for devices in arguments.devices:
        several = devices > arguments.per_machine
        link, latency = (
            (arguments.network, arguments.network_latency)
            if several
            else (arguments.link, arguments.latency)
        )
        seconds = step_seconds(
            devices,
            arguments.part,
            arguments.rate,
            arguments.input,
            arguments.per_machine,
            size,
            link * 1e9,
            messages,
            latency * 1e-6,
        )
        images = devices * arguments.part / seconds
        share = images / devices / arguments.rate
        epoch = time.strftime("%M min %S s", time.gmtime(IMAGENET / images))
        step = f"{1000 * seconds:.1f} | {images:,.0f} | {share:.0%}"
        print(f"| {devices} | {step} | {epoch} |")


def _sizes() -> tuple[float, int]:
    """(bytes of the float32 gradients, small all-reduces in a step) of the model."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    import keras_resnet

    net = keras_resnet.create(MODEL, weights=None)
    kind = keras.layers.BatchNormalization
    layers = sum(isinstance(layer, kind) for layer in net._flatten_layers())
    parameters = sum(math.prod(weight.shape) for weight in net.trainable_weights)
    return 4.0 * parameters, 4 * layers


def measure(rounds: int) -> None:
    size, messages = _sizes()
    rows: list[dict[str, float]] = []
    for number in range(rounds + 1):  # the first one compiles
        (one,), (two, _) = _run(1), _run(2)
        part = {"one": one["step"], **{f"two {key}": two[key] for key in FIELDS}}
        print("warm-up" if not number else f"round {number}", part, flush=True)
        rows += [part] if number else []
    middle = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    # what was measured of the link is (n - 1) / n x 2 = 1 times the gradients
    expected = step_seconds(
        2,
        PART,
        PART / middle["one"],
        float("inf"),
        2,
        size,
        size / middle["two reduce"],
        messages,
        middle["two message"],
    )
    print(
        f"{MODEL} at {SIDE}, {PART} images a process: one {middle['one']:.3f} s; "
        f"all-reduce of {size / 1e6:.0f} MB {middle['two reduce']:.3f} s, "
        f"{messages} x {1e3 * middle['two message']:.2f} ms; expected of two "
        f"{expected:.3f} s, measured {middle['two step']:.3f} s, ratio "
        f"{middle['two step'] / expected:.2f}"
    )


def _run(count: int) -> list[dict[str, float]]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "JAX_COMPILATION_CACHE_DIR": os.path.expanduser(
            "~/.cache/keras_resnet_scaling"
        ),
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    sides = [
        subprocess.Popen(
            [sys.executable, __file__, "side", address, str(count), str(index)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
        )
        for index in range(count)
    ]
    said = [side.communicate()[0] for side in sides]
    if any(side.returncode for side in sides):
        sys.exit("a process failed; run `scaling.py side ADDRESS 1 0` to see why")
    return [json.loads(text.splitlines()[-1]) for text in said]


def side(address: str, count: int, index: int) -> None:
    """Prints the seconds of a step, of an all-reduce and of a message, as JSON."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[index]})
    import jax
    import keras
    import numpy as np

    from keras_resnet.train.processes import set_up_jax

    set_up_jax()
    if count > 1:
        keras.distribution.initialize(address, count, index)
    keras.utils.set_random_seed(0)
    parallel = keras.distribution.DataParallel(
        devices=keras.distribution.list_devices(), auto_shard_dataset=False
    )
    with parallel.scope():
        answer = {"step": _step(keras), "reduce": 0.0, "message": 0.0}
        if count > 1:
            shapes = [
                variable.shape for variable in _STATE["model"].trainable_variables
            ]
            mesh = parallel.device_mesh.backend_mesh
            spread = jax.sharding.NamedSharding(mesh, jax.P("batch"))
            whole = jax.sharding.NamedSharding(mesh, jax.P())
            add = jax.jit(lambda xs: [x.sum(0) for x in xs], out_shardings=whole)

            def timed(shapes: Sequence[Any]) -> float:
                local = [np.ones((1, *shape), np.float32) for shape in shapes]
                made = jax.make_array_from_process_local_data
                arrays = [made(spread, array) for array in local]
                times = []
                for _ in range(8):
                    began = time.perf_counter()
                    jax.block_until_ready(add(arrays))
                    times.append(time.perf_counter() - began)
                return statistics.median(times[2:])

            answer |= {"reduce": timed(shapes), "message": timed([(64,)])}
    print(json.dumps(answer))


_STATE: dict[str, Any] = {}


def _step(keras: Any) -> float:
    """The median seconds of a training step."""
    import numpy as np
    import tensorflow as tf

    import keras_resnet
    from keras_resnet.optimizers import CoupledSGD
    from keras_resnet.train.trainable import Trainable

    net = keras_resnet.create(MODEL, weights=None, classifier_activation=None)
    model = _STATE["model"] = Trainable(net)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(CoupledSGD(0.01, weight_decay=1e-4), loss)
    drawn = np.random.default_rng(0)
    images = drawn.integers(0, 256, (PART, SIDE, SIDE, 3), np.uint8)
    labels = np.eye(CLASSES, dtype=np.float32)[drawn.integers(0, CLASSES, PART)]
    batches = tf.data.Dataset.from_tensors((images, labels)).repeat()
    ends: list[float] = []

    def note(batch: int, logs: Any) -> None:
        float(logs["loss"])  # waits for the step
        ends.append(time.perf_counter())

    callback = keras.callbacks.LambdaCallback(on_train_batch_end=note)
    model.fit(batches, steps_per_epoch=STEPS, callbacks=[callback], verbose=0)
    return statistics.median(np.diff(ends)[1:].tolist())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    told = commands.add_parser("predict")
    told.add_argument("--rate", type=float, default=2500, help="images/s of a device")
    told.add_argument("--part", type=int, default=256, help="images of a device")
    told.add_argument(
        "--input", type=float, default=20000, help="images/s of a machine"
    )
    told.add_argument("--per-machine", type=int, default=8, help="devices of a machine")
    told.add_argument("--link", type=float, default=300, help="GB/s within a machine")
    told.add_argument("--network", type=float, default=25, help="GB/s between machines")
    told.add_argument("--latency", type=float, default=20, help="µs of a message")
    told.add_argument(
        "--network-latency", type=float, default=60, help="µs of a message"
    )
    told.add_argument("--devices", type=int, nargs="+", default=[1, 8, 32])
    checked = commands.add_parser("measure")
    checked.add_argument("--rounds", type=int, default=1)
    alone = commands.add_parser("side")
    alone.add_argument("address")
    alone.add_argument("count", type=int)
    alone.add_argument("index", type=int)
    arguments = parser.parse_args()
    if arguments.command == "predict":
        predict(arguments)
    elif arguments.command == "measure":
        measure(arguments.rounds)
    else:
        side(arguments.address, arguments.count, arguments.index)


if __name__ == "__main__":
    main()
