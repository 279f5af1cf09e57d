"""Reads the weights files of several frameworks as {name: array}.

Files are assumed to be hostile: no code in them is run or imported, no links in them
are followed, and no more memory is allocated than the size of the file justifies.
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
    """Returns every tensor of a weights file.

    The first bytes of the file, not its name, determine its format.

    Args:
        path: a .safetensors, a .pth, .pt or .bin of torch.save, an mxnet .params, a
            Paddle .pdparams, an .npz, an .h5, .weights.h5 or .keras, or the prefix of a
            TensorFlow checkpoint, whose files are PREFIX.index and PREFIX.data-*.
        check: whether to check the values with `check_values`.
        on_disk: whether to return, if the format allows it, objects with a `shape` that
            numpy.asarray reads from the file, so that not all tensors are in memory.

    Returns:
        {name: array} with the names, layouts and values of the file, except that
        bfloat16 becomes float32. Arrays may be read-only, and may share memory.

    Raises:
        WeightsError: naming the file, the problem and a remedy. No content of a file
            raises another exception or gives a partial result.
    """
    path = os.fsdecode(path)
    remedy = ""
    try:
        kind = formats.recognise(path)
        remedy = (
            f"\nThe file was read as {kind.title}: download it again, or write it with "
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
    except Exception as error:  # the parsers of the libraries raise many kinds
        reason = f"{type(error).__name__}: {str(error)[:300]}"
        raise WeightsError(f"{path}: damaged ({reason}){remedy}") from error
    return tensors


def check_values(tensors: Mapping[str, Any]) -> None:
    """Raises an error for values that weights cannot have.

    Args:
        tensors: {name: array}.

    Raises:
        WeightsError: listing each tensor with NaN or infinite values, and each moving
            variance (named ...running_var or ..._variance) with negative values or only
            zeros. Single zeros are valid: a channel with constant output has a variance
            of zero, to which batch normalization adds epsilon.
    """
    problems = []
    for name, tensor in tensors.items():
        value = np.asarray(tensor)
        is_variance = name.removesuffix(":0").endswith(("running_var", "_variance"))
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            problems.append(f"{name!r} has NaN or infinite values")
        elif is_variance and ((value < 0).any() or not value.any()):
            problems.append(
                f"{name!r} is a variance with negative values or only zeros"
            )
    if problems:
        more = len(problems) - _MAX_LISTED
        listed = problems[:_MAX_LISTED] + [f"and {more} more"] * (more > 0)
        raise WeightsError("\n  ".join(["these tensors have invalid values:", *listed]))


def _check_size(path: str, tensors: Mapping[str, Any]) -> None:
    """Raises an error for many views of a few bytes, whose copies would fill memory."""
    if not tensors:
        raise WeightsError("the file holds no tensors")
    # without nbytes: a tensor on disk, which cannot be larger than its file
    total = sum(getattr(value, "nbytes", 0) for value in tensors.values())
    if os.path.isfile(path) and total > allowance(size := os.path.getsize(path)):
        raise WeightsError(
            f"a file of {size} bytes expands to {total} bytes of tensors"
        )
