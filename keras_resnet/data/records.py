"""TFRecord shards as files: what a record holds, and where each begins."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_resnet.data.splits import Records
from keras_resnet.errors import DataError

_AROUND = 8 + 4 + 4  # bytes: the length, its checksum, and the payload's


def encode_example(data: bytes, label: int, text: str) -> bytes:
    """A serialised tf.train.Example with the ImageNet keys."""
    bytes_list, int64_list = tf.train.BytesList, tf.train.Int64List
    feature = {
        "image/encoded": tf.train.Feature(bytes_list=bytes_list(value=[data])),
        "image/class/label": tf.train.Feature(int64_list=int64_list(value=[label])),
        "image/class/text": tf.train.Feature(
            bytes_list=bytes_list(value=[text.encode(errors="surrogateescape")])
        ),
    }
    features = tf.train.Features(feature=feature)
    example = tf.train.Example(features=features)
    return example.SerializeToString(deterministic=True)


def index_records(shard: Path) -> list[int]:
    """The byte offset of each record, from the lengths and their checksums alone.

    Raises:
        DataError: naming the shard and the record after which it is no TFRecord file.
    """
    size = os.path.getsize(shard)
    if size == 0:
        raise DataError(f"{shard}: empty; write or copy it again")
    offsets: list[int] = []
    position = 0
    with (
        open(shard, "rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        if content[:2] == b"\x1f\x8b":
            raise DataError(f"{shard}: compressed; unpack it with gunzip")
        while position < size:
            length = 0
            if position + _AROUND <= size:
                length, checksum = struct.unpack_from("<QI", content, position)
                if checksum != _masked_crc32c(content[position : position + 8]):
                    length = 0
            if not 0 < length <= size - position - _AROUND:
                raise DataError(
                    f"{shard}: record {len(offsets)}: damaged or cut, or no TFRecord "
                    "file; write or copy it again"
                )
            offsets.append(position)
            position += length + _AROUND
    return offsets


def _crc32c_of(byte):
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_CRC32C = [_crc32c_of(byte) for byte in range(256)]


def _masked_crc32c(data: bytes) -> int:
    """The checksum of TFRecord files; for a few bytes, as it is Python."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC32C[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def record_split(
    shards: Sequence[str | Path], offsets: Sequence[Sequence[int]], **facts
) -> Records:
    """A split of all records; `offsets` are each shard's, `facts` fields of Records."""
    counts = [len(starts) for starts in offsets]
    return Records(
        shards=tuple(map(str, shards)),
        shard=np.repeat(np.arange(len(shards)), counts),
        offset=np.concatenate([np.asarray(starts, np.int64) for starts in offsets]),
        record=np.concatenate([np.arange(count) for count in counts]),
        **facts,
    )
