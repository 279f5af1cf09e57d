"""Pictures -> TFRecord shards with the ImageNet keys, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_resnet.data.source import (
    MANIFEST,
    DataError,
    Source,
    folder_source,
    list_classes,
    open_source,
)

_SHARD_BYTES = 128 * 2**20


def prepare(source, destination, val=0.0, seed=0, progress: Callable = iter) -> Source:
    """Writes a folder of classes as TFRecord shards.

    Args:
        source: a folder of train/ and val/ classes; or with `val`, of classes.
        destination: a folder that does not exist yet; it appears when it is whole.
        val: fraction of each class that becomes validation, at least one picture;
            0 takes the folder's own split.
        seed: of that split and of the order in which pictures are written.
        progress: wraps the iteration over the pictures, as a progress bar does.

    Raises:
        DataError: bad source, or `destination` exists.
    """
    if val:
        if not 0 < val < 1:
            raise DataError(f"val={val}: must be in (0, 1), the fraction to hold out")
        train_classes: dict[str, list[Path]] = {}
        val_classes: dict[str, list[Path]] = {}
        for name, files in list_classes(Path(source)).items():
            held = max(1, round(val * len(files)))
            if held >= len(files):
                raise DataError(
                    f"{Path(source) / name}: {len(files)} picture(s) cannot be split; "
                    "add some"
                )
            order = np.random.default_rng([seed, len(val_classes)]).permutation(
                len(files)
            )
            val_classes[name] = [files[i] for i in sorted(order[:held])]
            train_classes[name] = [files[i] for i in sorted(order[held:])]
        opened = folder_source(source, train_classes, val_classes)
    else:
        opened = open_source(source)

    def pictures(split):
        order = np.random.default_rng(seed).permutation(
            split.size
        )  # shards mix classes
        for index in progress(order):
            yield Path(split.files[index]).read_bytes(), split.labels[index]

    splits = {"train": opened.train, "val": opened.val}
    if any(split and split.labels is None for split in splits.values()):
        raise DataError(f"{source}: is prepared already; use it as it is")
    return write_records(
        destination,
        opened.class_names,
        {name: pictures(split) for name, split in splits.items() if split},
    )


def write_records(
    destination,
    class_names: Iterable[str],
    splits: dict[str, Iterable[tuple[bytes, int]]],
) -> Source:
    """Writes (encoded bytes, label from 0) of each split as shards of about 128 MiB.

    Keys: image/encoded, image/class/label, image/class/text. The manifest dataset.json
    has the class names and each shard's records, bytes and SHA-256.
    """
    destination = Path(destination)
    names = list(class_names)
    if destination.exists():
        raise DataError(f"{destination}: exists; remove it, or choose another folder")
    destination.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(
        tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent)
    )
    try:
        written = {
            split: _write_split(partial, split, examples, names)
            for split, examples in splits.items()
        }
        manifest = {"class_names": names, "first_label": 0, "splits": written}
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1))
        partial.chmod(0o755)
        os.replace(partial, destination)
    except BaseException:  # Ctrl-C too
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return open_source(destination)


def _write_split(folder, split, examples, names):
    shards: list[dict] = []
    writer = None
    try:
        for data, label in examples:
            if writer is None:
                file = folder / f"{split}-{len(shards):05d}.tfrecord"
                writer = tf.io.TFRecordWriter(str(file))
                shards.append({"file": file.name, "records": 0, "bytes": 0})
            record = _example(data, label, names[label])
            writer.write(record)
            shards[-1]["records"] += 1
            shards[-1]["bytes"] += len(record) + 16  # length and two checksums
            if shards[-1]["bytes"] >= _SHARD_BYTES:
                writer.close()
                writer = None
    finally:
        if writer is not None:
            writer.close()
    for shard in shards:
        with open(folder / shard["file"], "rb") as stream:
            shard["sha256"] = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"records": sum(shard["records"] for shard in shards), "shards": shards}


def _example(data, label, text):
    def feature(**kind):
        return tf.train.Feature(**kind)

    return tf.train.Example(
        features=tf.train.Features(
            feature={
                "image/encoded": feature(bytes_list=tf.train.BytesList(value=[data])),
                "image/class/label": feature(
                    int64_list=tf.train.Int64List(value=[label])
                ),
                "image/class/text": feature(
                    bytes_list=tf.train.BytesList(value=[text.encode()])
                ),
            }
        )
    ).SerializeToString()
