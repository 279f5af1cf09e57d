"""A weights file of any framework as {name: array}, or one clear error.

A foreign file is hostile until proven otherwise: nothing in it is run, imported or
followed elsewhere, and no memory is taken that the file's own size does not bear out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_resnet.errors import WeightsError
from keras_resnet.weights.readers import formats
from keras_resnet.weights.readers.archive import allowance

_MAX_LISTED = 100  # problems in one message


def read(
    path: str | os.PathLike[str], check: bool = True, on_disk: bool = False
) -> dict[str, Any]:
    """Every tensor of a weights file, whose first bytes, not its name, tell its format.

    Args:
        path: a .safetensors, a .pth, .pt or .bin of torch.save, an mxnet .params, a
            Paddle .pdparams, an .npz, an .h5, .weights.h5 or .keras, or the prefix of a
            TensorFlow checkpoint (which is at PREFIX.index and PREFIX.data-*).
        check: whether to pass the tensors through `check_values`.
        on_disk: where the format allows, return objects with a shape that numpy.asarray
            reads, rather than arrays, so that not all are in memory at a time.

    Returns:
        {name: array} with the file's own names, layout and numbers, except that
        bfloat16 becomes float32. Arrays may be read-only, and views of each other's
        memory.

    Raises:
        WeightsError: naming the file, what is wrong with it and what to do. Whatever is
            in the file, there is no other exception, and no partial result.
    """
    path = os.fsdecode(path)
    remedy = ""
    try:
        kind = formats.recognise(path)
        remedy = (
            f"\nNot read as {kind.title}: fetch it again, or write it anew with "
            f"{kind.remedy}"
        )
        tensors = kind.read(path)
        if not on_disk:
            tensors = {name: np.asarray(tensor) for name, tensor in tensors.items()}
        _check_size(path, tensors)
        if check:
            check_values(tensors)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}{remedy}") from error
    except Exception as error:  # the libraries' parsers raise what they like
        reason = f"{type(error).__name__}: {str(error)[:300]}"
        raise WeightsError(f"{path}: damaged ({reason}){remedy}") from error
    return tensors


def check_values(tensors: Mapping[str, Any]) -> None:
    """Refuses numbers that no net computes with.

    Args:
        tensors: {name: array}.

    Raises:
        WeightsError: listing each tensor with NaN or infinite values, and each moving
            variance (named ...running_var or ..._variance) that is negative somewhere
            or zero throughout. A channel whose output is constant has a variance of
            zero, to which normalization adds its epsilon.
    """
    problems = []
    for name, tensor in tensors.items():
        value = np.asarray(tensor)
        is_variance = name.removesuffix(":0").endswith(("running_var", "_variance"))
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            problems.append(f"{name!r} has NaN or infinite values")
        elif is_variance and ((value < 0).any() or not value.any()):
            problems.append(f"{name!r} is a variance, and negative or all zero")
    if problems:
        more = len(problems) - _MAX_LISTED
        listed = problems[:_MAX_LISTED] + [f"and {more} more"] * (more > 0)
        raise WeightsError("\n  ".join(["no net computes with these:", *listed]))


def _check_size(path: str, tensors: Mapping[str, Any]) -> None:
    """Many views of few bytes take no memory yet, but a copy of them would."""
    if not tensors:
        raise WeightsError("it holds no tensors")
    # a tensor on disk takes no more than its own bytes there
    total = sum(getattr(value, "nbytes", 0) for value in tensors.values())
    if os.path.isfile(path) and total > allowance(size := os.path.getsize(path)):
        raise WeightsError(f"{size} bytes unfold into {total} bytes of tensors")
