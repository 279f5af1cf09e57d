"""Cuts a GIF down to its first frame, as TensorFlow would decode all of its frames."""

from __future__ import annotations

import tensorflow as tf

_EXTENSION, _IMAGE = 0x21, 0x2C
_BLOCK = 256  # bytes of a full sub-block, including the byte with its length
_STRIDE = 64  # full sub-blocks that one iteration may skip
_MAX_TURNS = 10_000  # a usual frame needs fewer; a malicious file could take hours


def first_frame(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns a GIF that has only the first frame, and the frame's height and width.

    An animation of a few kilobytes may have gigabytes of pixels, and a frame may be
    larger than the screen size in the header. If the first frame is incomplete, the
    data is returned unchanged. If there is no frame, height and width (int64) are 0.
    """
    raw = tf.io.decode_raw(data, tf.uint8)
    size = tf.size(raw, tf.int64)

    def byte(place: tf.Tensor) -> tf.Tensor:
        return tf.cast(raw[tf.minimum(place, size - 1)], tf.int64)

    def table_size(flags: tf.Tensor) -> tf.Tensor:  # bytes of a color table
        return tf.where(flags >= 128, 3 * 2 ** (flags % 8 + 1), 0)

    def turn(*state: tf.Tensor) -> tuple[tf.Tensor, ...]:
        place, in_blocks, height, width, _ = state
        here = byte(place)

        def pass_blocks() -> tuple[tf.Tensor, ...]:
            lengths = raw[place : place + _STRIDE * _BLOCK : _BLOCK]
            full = tf.argmin(tf.concat([lengths == 255, [False]], 0))
            step = tf.where(full > 0, full * _BLOCK, here + 1)
            ended = here == 0
            return place + step, ~ended, height, width, ended & (height > 0)

        def pass_head() -> tuple[tf.Tensor, ...]:
            is_image = here == _IMAGE
            sides = [byte(place + i) + 256 * byte(place + i + 1) for i in (7, 5)]
            # an image descriptor, its color table, and the byte with the LZW code size
            head = tf.where(is_image, 10 + table_size(byte(place + 9)) + 1, 2)
            more = is_image | (here == _EXTENSION)
            found = [tf.where(is_image, side, 0) for side in sides]
            return place + head, more, *found, ~more

        return tf.cond(in_blocks, pass_blocks, pass_head)

    start = 13 + table_size(byte(tf.constant(10, tf.int64)))
    zero, no = tf.zeros([], tf.int64), tf.constant(False)
    place, _, height, width, done = tf.while_loop(
        lambda place, in_blocks, height, width, done: (place < size) & ~done,
        turn,
        (start, no, zero, zero, no),
        maximum_iterations=_MAX_TURNS,
    )
    is_complete = done & (height > 0)
    end = tf.cast(tf.where(is_complete, place, size), tf.int32)
    frame = tf.strings.substr(data, 0, end) + tf.where(is_complete, b";", b"")
    # the size is unknown if the loop stopped at its maximum of iterations
    known = tf.cast(done | (place >= size), tf.int64)
    return frame, height * known, width * known
