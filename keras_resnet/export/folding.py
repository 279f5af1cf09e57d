"""Folds batch normalization into convolutions, for inference."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_resnet.errors import ModelError
from keras_resnet.layers.convolution import ConvNorm
from keras_resnet.model import ResNet, assemble, assign, check_variables


def fold_batch_norm(model: ResNet, precision: str = "float32") -> ResNet:
    """Returns a copy of the model with batch normalization folded into convolutions.

    A convolution that is followed by gamma * (y - mean) / sqrt(variance + epsilon) +
    beta, with the moving mean and variance, equals a convolution with other kernels and
    a bias. TensorFlow runs it and the following ReLU as one operation. The outputs of
    the copy differ from those of the model by at most 1e-5.

    Group normalization is not folded, because it depends on the image.

    Args:
        model: a model of this package, with any dtype policy. It is not changed.
        precision: "float32" or "bfloat16", the type of kernels and biases and of
            everything computed between the input and global pooling. Normalization of
            the input, pooling and the classifier are always computed in float32.

    Returns:
        A model with the same `info`, except for `config.fused_batch_norm=None` and the
        dtype policy. It can be saved and opened again, but is not meant to be trained.

    Raises:
        ModelError: the model is not of this package, or was changed after it was built,
            for example by `quantize` or `enable_lora`; or the precision is unknown.
    """
    if precision not in ("float32", "bfloat16"):
        raise ModelError(
            f"precision={precision!r}: must be 'float32' or 'bfloat16'; float16 is "
            "slow on a CPU, and overflows"
        )
    if not isinstance(model, ResNet) or model.info is None:
        raise ModelError(
            f"{model.name}: must be a net of keras_resnet.create, to be folded"
        )
    check_variables(model)
    config = model.info.config
    if config.normalization == "batch":
        config = config.replace(fused_batch_norm=None)
    info = model.info.replace(config=config, dtype_policy=precision)
    folded = assemble(info, name=model.name)
    values = {variable.path: _as_float64(variable) for variable in model.weights}
    for source, target in zip(_conv_norms(model), _conv_norms(folded), strict=True):
        if target.norm is None and source.norm is not None:
            values |= _folded(source.conv, source.norm, target.conv)
    assign(folded, values)
    return folded


def _folded(conv: Any, norm: Any, target: Any) -> dict[str, np.ndarray]:
    """Returns {variable path: value} for the kernel and bias of the target."""
    gamma, beta, mean, variance = map(
        _as_float64, (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
    )
    scale = gamma / np.sqrt(variance + norm.epsilon)
    return {
        target.kernel.path: _as_float64(conv.kernel) * scale,
        target.bias.path: beta - mean * scale,
    }


def _conv_norms(model: ResNet) -> list[ConvNorm]:
    return [part for part in model._flatten_layers() if isinstance(part, ConvNorm)]


def _as_float64(variable: Any) -> np.ndarray:
    """Returns the value in float64, so that products are rounded only when assigned."""
    return np.asarray(variable, np.float64)
