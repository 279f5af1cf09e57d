"""A net -> the same net without normalisation, for inference alone."""

from __future__ import annotations

import numpy as np

from keras_resnet.errors import ModelError
from keras_resnet.layers.convolution import ConvNorm
from keras_resnet.model import ResNet, assemble, assign, check_variables


def fold_batch_norm(model: ResNet, precision="float32") -> ResNet:
    """The net with each batch normalisation folded into its convolution.

    A convolution, then gamma * (y - mean) / sqrt(variance + epsilon) + beta with the
    moving statistics, is a convolution of other kernels and a bias; with the ReLU
    behind it TensorFlow runs that as one operation. Outputs are equal to 1e-5.

    Args:
        model: of this package, under any dtype policy; it stays as it is.
        precision: "float32", or "bfloat16": kernels, biases and all between pixels and
            pooling in bfloat16. Pixels are normalised, features pooled and classified
            in float32 in either.

    Returns:
        A net of its own with the same `info` but for `config.fused_batch_norm=None`
        and the dtype policy. Its `save` and `keras_resnet.variants.open_model` work;
        it is not meant to be trained.

    Raises:
        ModelError: no net of this package, one changed since it was built, as by
            `quantize` or `enable_lora`, or another precision.
    """
    if precision not in ("float32", "bfloat16"):
        raise ModelError(
            f"precision={precision!r}: must be 'float32' or 'bfloat16'; float16 is "
            "slow on a CPU, and overflows"
        )
    if not isinstance(model, ResNet) or model.info is None:
        raise ModelError(
            f"{model.name}: no net of keras_resnet.create, as whose it is folded"
        )
    check_variables(model)
    config = model.info.config.replace(fused_batch_norm=None)
    info = model.info.replace(config=config, dtype_policy=precision)
    folded = assemble(info, name=model.name)
    values = {variable.path: _wide(variable) for variable in model.weights}
    for theirs, ours in zip(_conv_norms(model), _conv_norms(folded), strict=True):
        if theirs.norm is not None:
            values |= _folded(theirs, ours)
    assign(folded, values)
    return folded


def _folded(theirs, ours):
    """{path in the folded net: value} of a convolution's kernel and bias."""
    norm = theirs.norm
    gamma, beta, mean, variance = map(
        _wide, (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
    )
    scale = gamma / np.sqrt(variance + norm.epsilon)
    return {
        ours.conv.kernel.path: _wide(theirs.conv.kernel) * scale,
        ours.conv.bias.path: beta - mean * scale,
    }


def _conv_norms(model):
    return [part for part in model._flatten_layers() if isinstance(part, ConvNorm)]


def _wide(variable):
    """In float64, so that a product is rounded once, to what it is kept in."""
    return np.asarray(variable, np.float64)
