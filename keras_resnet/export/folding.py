"""A net -> the same net without normalization, for inference alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_resnet.errors import ModelError
from keras_resnet.layers.convolution import ConvNorm
from keras_resnet.model import ResNet, assemble, assign, check_variables


def fold_batch_norm(model: ResNet, precision: str = "float32") -> ResNet:
    """The net with each batch normalization folded into its convolution.

    A convolution, then gamma * (y - mean) / sqrt(variance + epsilon) + beta with the
    moving statistics, is a convolution with other kernels and a bias; TensorFlow runs
    it and the ReLU that follows as one operation. Outputs are equal to 1e-5.

    Args:
        model: of this package, under any dtype policy; it stays as it is.
        precision: "float32", or "bfloat16", for kernels, biases and all that is
            computed between pixels and pooling. Normalization of the pixels, pooling
            and the classifier are in float32 in either.

    Returns:
        Another net with the same `info` except for `config.fused_batch_norm=None` and
        the dtype policy. It can be saved and opened again; it is not meant to be
        trained. Group normalization depends on the image and stays as it is.

    Raises:
        ModelError: a model that is not of this package, or was changed since it was
            built, as by `quantize` or `enable_lora`; or another precision.
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
    values = {variable.path: _wide(variable) for variable in model.weights}
    for source, target in zip(_conv_norms(model), _conv_norms(folded), strict=True):
        if target.norm is None and source.norm is not None:
            values |= _folded(source.conv, source.norm, target.conv)
    assign(folded, values)
    return folded


def _folded(conv: Any, norm: Any, target: Any) -> dict[str, np.ndarray]:
    """{path in the folded net: value} of the target's kernel and bias."""
    gamma, beta, mean, variance = map(
        _wide, (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
    )
    scale = gamma / np.sqrt(variance + norm.epsilon)
    return {
        target.kernel.path: _wide(conv.kernel) * scale,
        target.bias.path: beta - mean * scale,
    }


def _conv_norms(model: ResNet) -> list[ConvNorm]:
    return [part for part in model._flatten_layers() if isinstance(part, ConvNorm)]


def _wide(variable: Any) -> np.ndarray:
    """In float64, so that a product is rounded only once, when it is assigned."""
    return np.asarray(variable, np.float64)
