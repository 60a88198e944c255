"""What a compressed frame says about its own size, read before a decoder believes it.

A decoder allocates what the code stream asks for; rows and columns of the header do not bound it.

Source: ISO/IEC 10918-1 B.2.2 (frame header), ISO/IEC 14495-1 C.2.2, ISO/IEC 15444-1 A.5.1 (image and tile size).
"""

from __future__ import annotations

import struct

_SOI = b"\xff\xd8"
_SOC_SIZ = b"\xff\x4f\xff\x51"
_SOS = 0xDA
_JPEG_LS_FRAME = 0xF7
# 0xC0 to 0xCF start a frame, but for DHT, JPG and DAC, which share the range
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {_JPEG_LS_FRAME}


def coded_size(code_stream: bytes) -> tuple[int, int, int] | None:
    """Rows, columns and components of a JPEG, JPEG-LS or JPEG 2000 code stream.

    None where the stream names no size (run-length encoding does not) or is not understood.
    """
    if code_stream.startswith(_SOC_SIZ):
        return _jpeg_2000_size(code_stream)
    if code_stream.startswith(_SOI):
        return _jpeg_size(code_stream)
    return None


def _jpeg_2000_size(code_stream: bytes) -> tuple[int, int, int] | None:
    # two markers, Lsiz, Rsiz, then Xsiz, Ysiz, XOsiz, YOsiz, four tile fields, Csiz
    if len(code_stream) < 42:
        return None
    right, bottom, left, top = struct.unpack_from(">4I", code_stream, 8)
    (components,) = struct.unpack_from(">H", code_stream, 40)
    return bottom - top, right - left, components


def _jpeg_size(code_stream: bytes) -> tuple[int, int, int] | None:
    position = len(_SOI)
    while position + 10 <= len(code_stream):
        if code_stream[position] != 0xFF:
            return None
        marker = code_stream[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker in _JPEG_FRAMES:
            rows, columns, components = struct.unpack_from(">HHB", code_stream, position + 5)
            return rows, columns, components
        if marker == _SOS:
            return None
        (length,) = struct.unpack_from(">H", code_stream, position + 2)
        position += 2 + length
    return None
