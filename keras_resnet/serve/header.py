"""The number of pixels of a JPEG or PNG, read from its header alone."""

import re

_PNG = b"\x89PNG\r\n\x1a\n"
# as libjpeg looks for its next marker: anything may stand before it, 0xFF too
_MARKER = re.compile(rb"\xff([^\xff\x00])")
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # SOF0, SOF1, ...
_BARE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_MARKERS = 4096  # that may precede the frame; cameras write a dozen
_SCAN = b"\xff\xda"
_SCANS = 64  # each decodes the whole picture, and may take 42 bytes; ten are usual


def pixels(data: bytes) -> int | None:
    """Width times height of a file's bytes; None if it is no JPEG or PNG, or is cut.

    Nothing is decoded, so a bomb costs no more than any file. Also None for a JPEG with
    more scans than any camera or program writes.
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
