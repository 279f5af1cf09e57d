"""Pictures as the world makes them: odd and right, foreign, cut, lying.

Each family is a dict {case: bytes}. Run as a program, this decodes the files that it is
told, one after another, in a process that somebody watches.
"""

import io
import json
import struct
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import sandbox
from PIL import Image, ImageCms


def scene(height=64, width=64):
    """Smooth colours, so that no codec loses much: uint8 [H, W, 3]."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    planes = [127 + 120 * np.sin(3 * x), 255 * y, 127 + 120 * np.cos(4 * (x + y))]
    return np.stack(planes, -1).clip(0, 255).astype(np.uint8)


def encoded(image, kind="jpeg", **options):
    """The bytes of a file of the picture, or of pixels."""
    stream = io.BytesIO()
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image.save(stream, kind, **options)
    return stream.getvalue()


def turned(orientation):
    """A JPEG that says how it is to be turned."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    return encoded(scene(), exif=tags)


def odd_jpegs():
    """What cameras, scanners and printers write, all of one scene."""
    rgb = Image.fromarray(scene())
    cmyk = encoded(rgb.convert("CMYK"), quality=95)
    marker = cmyk.index(b"\xff\xee")
    # four planes of which three are a YCbCr picture, and the marker that says so
    planes = [*rgb.convert("YCbCr").split(), rgb.convert("L")]
    ycck = bytearray(encoded(Image.merge("CMYK", planes), quality=95))
    ycck[ycck.index(b"Adobe") + 11] = 2
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return {
        "cmyk": cmyk,
        "cmyk_without_adobe": cmyk[:marker] + cmyk[marker + 16 :],
        "ycck": bytes(ycck),
        "gray": encoded(rgb.convert("L")),
        "progressive": encoded(rgb, progressive=True),
        "icc": encoded(rgb, icc_profile=profile),
        "mpo": encoded(rgb, "mpo", save_all=True, append_images=[rgb]),
        "trailing_garbage": encoded(rgb) + b"garbage" * 9,
        "restart_markers": encoded(rgb, restart_marker_blocks=2),
    }


def odd_pngs():
    """Every mode of 8 bits or fewer that Pillow writes, of the same scene."""
    rgb = Image.fromarray(scene())
    alpha = Image.fromarray((np.arange(64 * 64).reshape(64, 64) % 256).astype(np.uint8))
    rgba = Image.merge("RGBA", [*rgb.split(), alpha])
    palette = rgb.quantize(32)
    return {
        "rgb": encoded(rgb, "png"),
        "rgba": encoded(rgba, "png"),
        "la": encoded(rgba.convert("LA"), "png"),
        "palette": encoded(palette, "png"),
        "palette_trns": encoded(palette, "png", transparency=3),
        "rgb_trns": encoded(rgb, "png", transparency=(10, 20, 30)),
        "gray_trns": encoded(rgb.convert("L"), "png", transparency=7),
        "one_bit": encoded(rgb.convert("1"), "png"),
    }


def png(width, height, bits, kind, rows):
    """A PNG of these scanlines, each with its filter byte."""

    def chunk(name, content):
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    pack = zlib.compressobj(9)
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    data = b"".join([*map(pack.compress, rows), pack.flush()])
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def png16(pixels):
    """A PNG of 16 bits a channel; Pillow writes none of colour."""
    height, width, channels = pixels.shape
    rows = [b"\0" + row.astype(">u2").tobytes() for row in pixels]
    return png(width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], rows)


def bomb_png(side):
    """Kilobytes that are side x side pixels."""
    return png(side, side, 1, 0, [bytes(1 + -(-side // 8))] * side)


def bomb_gif(side, frames=1, screen=None):
    """Frames of side x side empty pixels, whatever size the screen is said to have."""
    one = encoded(Image.new("L", (side, side)), "gif")
    at = one.index(b"\x2c" + struct.pack("<HHHH", 0, 0, side, side))
    head = one[:6] + struct.pack("<HH", *[screen or side] * 2) + one[10:at]
    return head + one[at:-1] * frames + b";"


def lying_jpeg(side):
    """A small JPEG whose header says side x side."""
    jpeg = bytearray(encoded(scene()))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", side, side)
    return bytes(jpeg)


def foreign():
    """What lies in folders and is no picture that anything here decodes."""
    rgb = Image.fromarray(scene())
    moving = {"save_all": True, "append_images": [rgb.rotate(90)]}
    return {
        "jxl": b"\xff\x0a" + bytes(100),
        "jxl_container": b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(100),
        "tiff": encoded(rgb, "tiff"),
        "avif": b"\0\0\0\x20ftypavif\0\0\0\0avifmif1miaf" + bytes(100),
        "html": b"<!DOCTYPE html><html><body>404</body></html>",
        "text": b"not a picture\n",
        "nothing": b"",
        "one_byte": b"\xff",
        "leading_space": b" " + encoded(rgb),
        "zeros": bytes(5000),
        "jpeg_magic": b"\xff\xd8\xff",
        "png_magic": b"\x89PNG\r\n\x1a\n",
        "gif_magic": b"GIF89a",
        "bmp_magic": b"BM" + bytes(60),
        "webp_magic": b"RIFF\x40\0\0\0WEBPVP8X" + bytes(60),
        "wave": b"RIFF\x40\0\0\0WAVEfmt " + bytes(60),
        "animated_webp": encoded(rgb, "webp", **moving),
    }


def cuts(jpeg):
    """Cut at every byte of its header, at and after each 0xFF, at 10 to 99 %."""
    header = jpeg.index(b"\xff\xda") + 14
    marks = [place for place, byte in enumerate(jpeg) if byte == 0xFF]
    shares = [len(jpeg) * share // 100 for share in range(10, 100)]
    lengths = {*range(header), *marks, *(place + 1 for place in marks), *shares}
    return {length: jpeg[:length] for length in sorted(lengths) if length < len(jpeg)}


def main():
    """Decodes the files named on stdin, and answers each with a line of JSON."""
    import tensorflow as tf

    from keras_resnet.data.transforms.decode import decode_image, first_sentence

    decode = tf.function(decode_image, input_signature=[tf.TensorSpec([], tf.string)])
    decode(encoded(scene()))
    for line in sys.stdin:
        data = Path(line.rstrip("\n")).read_bytes()
        before, start = sandbox._peak(reset=True), time.perf_counter()
        try:
            outcome, said = "decoded", list(decode(data).shape)
        except tf.errors.InvalidArgumentError as error:
            outcome, said = "refused", first_sentence(error)
        seconds, grown = time.perf_counter() - start, sandbox._peak() - before
        print(json.dumps([outcome, said, seconds, grown]), flush=True)


if __name__ == "__main__":
    main()
