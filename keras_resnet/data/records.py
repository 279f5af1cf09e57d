"""TFRecord shards: finding, reading and encoding records, and a split made of them."""

from __future__ import annotations

import dataclasses
import hashlib
import mmap
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_resnet.data.splits import Reader, Split
from keras_resnet.errors import DataError

RAW = b"raw"  # the format of pixels that are not encoded
FORMAT_KEY = "image/format"
SIDES = ("image/height", "image/width")  # keys that raw pixels need
MISFIT = "raw pixels have another number of bytes:"  # than height * width * 3
_FRAMING = 8 + 4 + 4  # bytes: the length, its checksum, the checksum of the payload


@dataclass(frozen=True, eq=False)
class Records(Split):
    """A split whose images are records of TFRecord shards, read at their offsets."""

    shards: tuple[str, ...]
    shard: np.ndarray  # int64 [size], index into `shards`
    offset: np.ndarray  # int64 [size], bytes from the start of the shard
    record: np.ndarray  # int64 [size], index of the record in its shard
    class_count: int
    first_label: int = 0  # the label of class 0 in the records
    keys: tuple[str, str] = ("image/encoded", "image/class/label")
    raw: bool = False  # the records hold pixels, as `encode_example` stores them

    @property
    def size(self) -> int:
        return len(self.offset)

    def reader(self) -> Reader:
        shards = tf.constant([os.fsencode(shard) for shard in self.shards])
        shard, offset = tf.constant(self.shard), tf.constant(self.offset)
        image, label = self.keys
        features = {
            image: tf.io.FixedLenFeature([], tf.string),
            label: tf.io.FixedLenFeature([], tf.int64),
        }
        if self.raw:
            features |= dict.fromkeys(SIDES, features[label])

        def read(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            file = tf.gather(shards, tf.gather(shard, number))
            record = read_record(file, tf.gather(offset, number))
            example = tf.io.parse_single_example(record, features)
            index = example[label] - self.first_label
            # one_hot would return zeros for a label out of range
            in_range = (index >= 0) & (index < self.class_count)
            message = ["label out of range:", example[label]]
            with tf.control_dependencies([tf.debugging.Assert(in_range, message)]):
                index = tf.identity(index)
            if self.raw:
                return _pixels(example[image], *map(example.get, SIDES)), index
            return example[image], index

        return read

    def where(self, number: int) -> str:
        return f"{self.shards[self.shard[number]]}: record {self.record[number]}"

    def take(self, numbers: np.ndarray) -> Records:
        return dataclasses.replace(
            self,
            shard=self.shard[numbers],
            offset=self.offset[numbers],
            record=self.record[numbers],
        )

    def identity(self) -> list:
        places = np.stack([self.shard, self.offset]).astype(np.int64)
        digest = hashlib.sha256(places.tobytes()).hexdigest()
        names = [Path(shard).name for shard in self.shards]
        return [names, digest, self.first_label]


def _pixels(data: tf.Tensor, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    """Raw pixels as uint8 [H, W, 3]."""
    flat = tf.io.decode_raw(data, tf.uint8)
    found, sides = tf.size(flat, tf.int64), tf.stack([height, width])
    within = tf.reduce_all((sides > 0) & (sides <= found))  # no overflow then
    fits = within & (found == tf.reduce_prod(sides) * 3)
    message = [MISFIT, found, "for height and width:", height, width]
    with tf.control_dependencies([tf.debugging.Assert(fits, message)]):
        return tf.reshape(flat, tf.stack([height, width, 3]))


def record_split(
    shards: Sequence[str | Path],
    offsets: Sequence[Sequence[int]],
    class_count: int,
    first_label: int = 0,
    keys: tuple[str, str] = Records.keys,
    raw: bool = False,
) -> Records:
    """The split of all records of the shards, given the byte offsets in each shard."""
    counts = [len(starts) for starts in offsets]
    return Records(
        shards=tuple(map(str, shards)),
        shard=np.repeat(np.arange(len(shards)), counts),
        offset=np.concatenate([np.asarray(starts, np.int64) for starts in offsets]),
        record=np.concatenate([np.arange(count) for count in counts]),
        class_count=class_count,
        first_label=first_label,
        keys=keys,
        raw=raw,
    )


def read_record(shard: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
    """Reads the record at a byte offset of a shard, and verifies its checksums.

    It consists of graph operations, so that it can be used in a tf.data pipeline.
    """
    records = tf.raw_ops.TFRecordDatasetV2(
        filenames=tf.reshape(shard, [1]),
        compression_type="",
        buffer_size=tf.constant(0, tf.int64),  # do not read ahead of the record
        byte_offsets=tf.reshape(offset, [1]),
    )
    kind = {"output_types": [tf.string], "output_shapes": [[]]}
    first = tf.raw_ops.TakeDataset(
        input_dataset=records, count=tf.constant(1, tf.int64), **kind
    )
    return tf.raw_ops.DatasetToSingleElement(dataset=first, **kind)[0]


def encode_example(
    data: bytes, label: int, text: str, sides: tuple[int, int] | None = None
) -> bytes:
    """A serialized tf.train.Example with the keys that are usual for ImageNet.

    Args:
        data: the content of an image file; or uint8 [H, W, 3] pixels, row by row.
        label: the class.
        text: its name.
        sides: the height and width of pixels; None for an image file.
    """
    bytes_list, int64_list = tf.train.BytesList, tf.train.Int64List
    feature = {
        "image/encoded": tf.train.Feature(bytes_list=bytes_list(value=[data])),
        "image/class/label": tf.train.Feature(int64_list=int64_list(value=[label])),
        "image/class/text": tf.train.Feature(
            bytes_list=bytes_list(value=[text.encode(errors="surrogateescape")])
        ),
    }
    if sides is not None:
        sizes = [tf.train.Feature(int64_list=int64_list(value=[it])) for it in sides]
        raw = tf.train.Feature(bytes_list=bytes_list(value=[RAW]))
        feature |= dict(zip(SIDES, sizes)) | {FORMAT_KEY: raw}
    example = tf.train.Example(features=tf.train.Features(feature=feature))
    return example.SerializeToString(deterministic=True)


def index_records(shard: Path) -> list[int]:
    """The byte offset of each record of a shard; payloads are not read.

    Raises:
        DataError: the shard is empty or compressed, or a record damaged or truncated.
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
            if position + _FRAMING <= size:
                length, checksum = struct.unpack_from("<QI", content, position)
                if checksum != _masked_crc32c(content[position : position + 8]):
                    length = 0
            if not 0 < length <= size - position - _FRAMING:
                raise DataError(
                    f"{shard}: record {len(offsets)}: damaged or truncated, or not a "
                    "TFRecord file; write or copy it again"
                )
            offsets.append(position)
            position += length + _FRAMING
    return offsets


def _crc32c_of_byte(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_CRC32C = [_crc32c_of_byte(byte) for byte in range(256)]


def _masked_crc32c(data: bytes) -> int:
    """The checksum used in TFRecord files; in pure Python, so only for a few bytes."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC32C[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
