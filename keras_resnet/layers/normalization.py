"""Batch normalization on TensorFlow's fused kernel, its moving variance unbiased."""

from __future__ import annotations

import math
from typing import Any

from keras_resnet.backend import keras, ops
from keras_resnet.config import NORM_GROUPS, python_scalar


@keras.saving.register_keras_serializable(package="keras_resnet")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras's layer with one kernel instead of several float32 passes.

    Arguments, variables and weights files are those of
    `keras.layers.BatchNormalization`; defaults are the family's (momentum 0.9, epsilon
    1e-5: TF-slim's `decay` and `epsilon`, arXiv 1812.01187's code). Two differences:

    - On the TensorFlow backend a [N, H, W, C] float32, float16 or bfloat16 input goes
      through `FusedBatchNormV3` with float32 statistics, which Grappler also folds into
      a neighbouring convolution at inference. Anything else (other backends, float64,
      other ranks and axes, `synchronized`) runs on composed operations.
    - `moving_variance` averages the unbiased batch variance, n / (n - 1) times the
      biased one that normalizes, as TF-slim, GluonCV and torch keep it. Keras averages
      the biased one. Only with a `mask` or `renorm` does Keras's own code run, biased.

    Batch statistics that are not finite, after an overflow in half precision, leave the
    moving ones as they are. With `frozen_statistics = True`, an argument and an
    attribute for fine tuning, the moving ones normalize in training too and stay, while
    gamma and beta learn; `trainable = False` freezes those as well.

    Shapes: any [..., C], unchanged. Outputs and gradients equal Keras's to 1e-5.
    """

    def __init__(
        self,
        axis: int = -1,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        *,
        frozen_statistics: bool = False,
        **kwargs: Any,
    ) -> None:
        axis, momentum, epsilon = map(python_scalar, (axis, momentum, epsilon))
        super().__init__(axis=axis, momentum=momentum, epsilon=epsilon, **kwargs)
        self._axis = axis  # Keras 2 makes a list of `axis`
        self.frozen_statistics = bool(frozen_statistics)

    def get_config(self) -> dict[str, Any]:
        config = {**super().get_config(), "axis": self._axis}
        if self.frozen_statistics:  # else left out, so that former versions open it
            config["frozen_statistics"] = True
        return config

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if mask is not None or getattr(self, "renorm", False):
            return super().call(inputs, training=training, mask=mask)
        batch_statistics = (
            bool(training) and self.trainable and not self.frozen_statistics
        )
        if self._fits_fused_kernel(inputs):
            return self._call_fused(inputs, batch_statistics)
        return self._call_composed(inputs, batch_statistics)

    def _fits_fused_kernel(self, inputs: Any) -> bool:
        return (
            keras.backend.backend() == "tensorflow"
            and len(inputs.shape) == 4
            and self._reduced(inputs) == (0, 1, 2)
            and not self.synchronized
            and keras.backend.standardize_dtype(inputs.dtype)
            in ("float32", "float16", "bfloat16")
        )

    def _reduced(self, x: Any) -> tuple[int, ...]:
        """The axes over which statistics are taken."""
        rank = len(x.shape)
        return tuple(axis for axis in range(rank) if axis != self._axis % rank)

    def _call_fused(self, inputs: Any, batch_statistics: bool) -> Any:
        import tensorflow as tf

        def as_float32(variable: Any, default: float) -> Any:
            if variable is None:
                return tf.fill([inputs.shape[-1]], default)
            return tf.cast(ops.convert_to_tensor(variable), tf.float32)

        empty = tf.zeros([0])  # the kernel wants no statistics when it computes them
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=as_float32(self.gamma, 1.0),
            offset=as_float32(self.beta, 0.0),
            mean=empty if batch_statistics else as_float32(self.moving_mean, 0.0),
            variance=empty
            if batch_statistics
            else as_float32(self.moving_variance, 1.0),
            epsilon=self.epsilon,
            is_training=batch_statistics,
        )
        if batch_statistics:
            self._update_moving(mean, variance)  # the kernel's variance is unbiased
        return ops.cast(outputs, self.compute_dtype)

    def _call_composed(self, inputs: Any, batch_statistics: bool) -> Any:
        kind = keras.backend.standardize_dtype(inputs.dtype)
        # not Keras's result_type, which is float32 for float64 on JAX
        x = ops.cast(inputs, kind if kind == "float64" else "float32")

        def cast(variable: Any) -> Any:
            return None if variable is None else ops.cast(variable, x.dtype)

        if batch_statistics:
            mean, variance = self._batch_moments(x)
            self._update_moving(mean, variance * self._bessel(x))
        else:
            mean, variance = cast(self.moving_mean), cast(self.moving_variance)
        outputs = ops.batch_normalization(
            x,
            mean,
            variance,
            axis=self._axis,
            offset=cast(self.beta),
            scale=cast(self.gamma),
            epsilon=self.epsilon,
        )
        return ops.cast(outputs, self.compute_dtype)

    def _batch_moments(self, x: Any) -> tuple[Any, Any]:
        axes = self._reduced(x)
        if not self.synchronized or keras.backend.backend() != "tensorflow":
            return ops.moments(x, axes=axes, synchronized=self.synchronized)
        import tensorflow as tf

        replica = tf.distribute.get_replica_context()

        def average(values: Any) -> Any:
            own = ops.mean(values, axes, keepdims=True)
            alone = replica is None or replica.num_replicas_in_sync == 1
            return (
                own if alone else replica.all_reduce(tf.distribute.ReduceOp.MEAN, own)
            )

        # Keras subtracts the square of the mean, which costs float32 its digits
        mean = average(x)
        variance = average(ops.square(x - mean))
        return ops.squeeze(mean, axes), ops.squeeze(variance, axes)

    def _bessel(self, x: Any) -> Any:
        """n / (n - 1) for n values a channel; 1 for a single one, as in the kernel."""
        axes = self._reduced(x)
        sizes: list[Any] = [x.shape[axis] for axis in axes]
        if None in sizes:
            shape = ops.shape(x)
            sizes = [ops.cast(shape[axis], x.dtype) for axis in axes]
        n = math.prod(sizes)
        if self.synchronized and keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            n = n * tf.distribute.get_strategy().num_replicas_in_sync
        n = ops.cast(n, x.dtype)
        return n / ops.maximum(n - 1, 1)

    def _update_moving(self, mean: Any, variance: Any) -> None:
        for variable, batch in (
            (self.moving_mean, mean),
            (self.moving_variance, variance),
        ):
            # the average in float32 also where a pure half policy stores half
            old = ops.cast(variable, batch.dtype)
            new = old * self.momentum + batch * (1 - self.momentum)
            new = ops.where(ops.isfinite(batch), new, old)
            variable.assign(ops.cast(new, variable.dtype))


def make_normalization(kind: str, fused: bool | None, **kwargs: Any) -> Any:
    """The normalization that follows a convolution.

    Args:
        kind: "batch", or "group" for group normalization (arXiv 1803.08494) of 32
            groups.
        fused: of batch normalization: True for `BatchNormalization`, False for Keras's.
        **kwargs: of the layer.
    """
    kwargs.setdefault("epsilon", 1e-5)
    if kind == "group":
        if fused is not False:
            raise ValueError(
                f"normalization='group', fused_batch_norm={fused}: there is no batch "
                "normalization; give fused_batch_norm=False"
            )
        return keras.layers.GroupNormalization(NORM_GROUPS, **kwargs)
    cls = BatchNormalization if fused else keras.layers.BatchNormalization
    return cls(momentum=0.9, **kwargs)
