"""Reads the number of pixels from the header of a JPEG or PNG file."""

import re

_PNG = b"\x89PNG\r\n\x1a\n"
# like libjpeg, which skips any bytes before a marker, and repeated 0xFF
_MARKER = re.compile(rb"\xff([^\xff\x00])")
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # SOF0, SOF1, ...
_BARE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_MARKERS = 4096  # maximum before the frame; cameras write about a dozen
_SCAN = b"\xff\xda"
_SCANS = 64  # maximum; 42 bytes suffice for a scan, which decodes the whole image


def pixels(data: bytes) -> int | None:
    """Returns the number of pixels of an image file without decoding it.

    The result is None if the file is not a JPEG or PNG, if its header is incomplete, or
    if it is a JPEG with more than 64 scans. Usual progressive JPEGs have about ten, and
    a file with many more may be made to take very long to decode.

    Args:
        data: the bytes of the file.
    """
    if data.startswith(_PNG):
        if len(data) < 24:
            return None
        return int.from_bytes(data[16:20], "big") * int.from_bytes(data[20:24], "big")
    if not data.startswith(b"\xff\xd8\xff") or data.count(_SCAN) > _SCANS:
        return None
    place = 2
    for _ in range(_MARKERS):
        found = _MARKER.search(data, place)
        if not found or len(data) < found.end() + 7:
            return None
        marker, place = found[1][0], found.end()
        if marker in _FRAMES:
            height, width = data[place + 3 : place + 5], data[place + 5 : place + 7]
            return int.from_bytes(height, "big") * int.from_bytes(width, "big")
        if marker not in _BARE:
            place += int.from_bytes(data[place : place + 2], "big")
    return None
