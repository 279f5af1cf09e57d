"""The devices that a run trains on, each on a part of every batch.

Keras's own data parallelism does the work: `keras.distribution.DataParallel` on JAX,
`tf.distribute.MirroredStrategy` on TensorFlow.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from keras_resnet.backend import keras
from keras_resnet.errors import RecipeError
from keras_resnet.recipe import Recipe
from keras_resnet.train import processes


@dataclass(frozen=True)
class Devices:
    """What a run trains on; made by `choose`.

    Attributes:
        names: of the devices, such as "gpu:0"; with several processes, of all.
        statistics: "per-device" or "synchronized", of batch normalization.
    """

    names: tuple[str, ...]
    statistics: str

    def __str__(self) -> str:
        return (
            f"{len(self.names)} devices ({', '.join(self.names)}), batch statistics "
            f"{self.statistics}"
        )

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Within it a model is built and trained on all of the devices."""
        if len(self.names) == 1:
            yield
        elif keras.backend.backend() == "jax":
            parallel = keras.distribution.DataParallel(
                devices=list(self.names),
                auto_shard_dataset=False,  # each process reads its slice
            )
            with parallel.scope():
                yield
        else:
            import tensorflow as tf

            strategy = tf.distribute.MirroredStrategy(list(self.names))
            with strategy.scope(), tf.variable_creator_scope(_aggregated):
                yield

    @contextlib.contextmanager
    def synchronizing(self, net: Any) -> Iterator[None]:
        """Within it TensorFlow's batch statistics are of all devices, if they shall be.

        The layers are as before afterwards, and so are saved models.
        """
        layers = []
        on_tensorflow = keras.backend.backend() == "tensorflow"
        if len(self.names) > 1 and self.statistics == "synchronized" and on_tensorflow:
            layers = [
                layer
                for layer in net._flatten_layers()
                if isinstance(layer, keras.layers.BatchNormalization)
                and not layer.synchronized
            ]
        for layer in layers:
            layer.synchronized = True
        try:
            yield
        finally:
            for layer in layers:
                layer.synchronized = False


def choose(devices: int | str | None, recipe: Recipe) -> Devices:
    """The devices of a run, after a check that the recipe can be trained on them.

    Args:
        devices: None for all GPUs, or one CPU without any; "all" for all GPUs, or all
            CPU devices without any; or how many of these. With several processes, of
            each process.
        recipe: a Recipe, whose batches must divide by the number of devices.

    Raises:
        RecipeError: there are not so many devices, batches do not divide, or the
            backend cannot do what `batch_statistics` says; before anything is built.
    """
    gpus, cpus = _names("GPU"), _names("CPU")
    names = gpus or (cpus if devices is not None else cpus[:1])
    if devices not in (None, "all"):
        count = int(devices) if str(devices).isdecimal() else 0  # True is not
        if isinstance(devices, bool) or not 0 < count <= len(names):
            raise RecipeError(
                f"devices={devices!r}: must be 'all' or 1 to {len(names)}, the number "
                f"of devices here: {', '.join(names)}"
            )
        names = names[:count]
    if recipe.task != "classify":
        if (len(names) > 1 and devices is not None) or processes.count() > 1:
            raise RecipeError(
                f"task={recipe.task!r}: is trained on one device by one process; leave "
                "out --devices and --processes"
            )
        names = names[:1]
    names = [name for each in processes.gathered(names) for name in each]
    part = recipe.batch_size // recipe.accumulate
    if part % len(names):
        raise RecipeError(
            f"batch_size={recipe.batch_size}, accumulate={recipe.accumulate}: batches "
            f"of {part} images cannot be divided by {len(names)} devices; choose a "
            "multiple, or fewer devices"
        )
    on_jax = keras.backend.backend() == "jax"
    statistics = recipe.batch_statistics
    if statistics == "auto":
        statistics = "synchronized" if on_jax else "per-device"
    if on_jax and statistics == "per-device" and len(names) > 1:
        raise RecipeError(
            f"batch_statistics={statistics!r}: JAX normalizes by the statistics of the "
            "whole batch on several devices; choose 'synchronized', or "
            "KERAS_BACKEND=tensorflow"
        )
    return Devices(tuple(names), statistics)


def _names(kind: str) -> list[str]:
    if keras.backend.backend() == "jax":
        import jax

        try:
            found = jax.local_devices(backend=kind.lower())
        except RuntimeError:  # JAX knows no such devices
            return []
        return [f"{device.platform}:{device.id}" for device in found]
    import tensorflow as tf

    found = tf.config.list_logical_devices(kind)
    return [device.name.removeprefix("/device:") for device in found]


def _aggregated(create: Any, **options: Any) -> Any:
    """Creates a TensorFlow variable that stays the same on all devices.

    Keras says nothing of moving averages, such as batch normalization's, and each
    device would keep its own, of which only the first's is saved.
    """
    import tensorflow as tf

    unsaid = tf.VariableAggregation.NONE
    if (
        not options.get("trainable")
        and options.get("aggregation", unsaid) == unsaid
        and tf.as_dtype(options.get("dtype") or tf.float32).is_floating
        # the same on all by itself, and assigned where devices cannot wait
        and options.get("name") != "dynamic_scale"
    ):
        options["aggregation"] = tf.VariableAggregation.MEAN
    return create(**options)
