# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""As much of MongoDB's wire protocol as one question needs: an OP_MSG out, the fields of its answer in.

Only fields of the outermost document are read, and of those only the kinds that a probe looks at; the others are
stepped over by their length.
"""

from __future__ import annotations

import struct

HEADER_SIZE = 16
LONGEST_MESSAGE = 48_000_000
_OP_MSG = 2013
_BODY = 0
_DOUBLE, _STRING, _BOOL, _INT32, _INT64 = 0x01, 0x02, 0x08, 0x10, 0x12
_FIXED_SIZES = {_DOUBLE: 8, 0x06: 0, 0x07: 12, _BOOL: 1, 0x09: 8, 0x0A: 0, _INT32: 4, 0x11: 8, _INT64: 8, 0x13: 16}
# A document and an array count their own length in; binary data also has a byte for its kind.
_COUNTED = {0x03: 0, 0x04: 0, _STRING: 4, 0x05: 5, 0x0D: 4}
_NUMBERS = {_DOUBLE: "<d", _INT32: "<i", _INT64: "<q"}


def hello_request() -> bytes:
    """The question that every client asks first, and that needs no login."""
    fields = b"\x10hello\0" + struct.pack("<i", 1) + b"\x02$db\0" + struct.pack("<i", 6) + b"admin\0"
    document = struct.pack("<i", len(fields) + 5) + fields + b"\0"
    body = struct.pack("<IB", 0, _BODY) + document
    return struct.pack("<iiii", HEADER_SIZE + len(body), 1, 0, _OP_MSG) + body


def body_size(header: bytes) -> int | None:
    """How much of an answer follows its header; None when the header is not that of an OP_MSG."""
    size, _request, _answers, operation = struct.unpack("<iiii", header)
    if operation != _OP_MSG or not HEADER_SIZE + 10 <= size <= LONGEST_MESSAGE:
        return None
    return int(size) - HEADER_SIZE


def answer_fields(body: bytes) -> dict[str, str | float | bool]:
    """Numbers, texts and truth values of the answer by name; empty when it is not one document."""
    if len(body) < 10 or body[4] != _BODY:
        return {}
    try:
        return _fields(body[9:])
    except (struct.error, ValueError, IndexError):
        return {}


def _fields(data: bytes) -> dict[str, str | float | bool]:
    found: dict[str, str | float | bool] = {}
    at = 0
    while data[at]:
        kind = data[at]
        end = data.index(b"\0", at + 1)
        name, at = data[at + 1 : end].decode("utf-8", "replace"), end + 1
        size = _FIXED_SIZES.get(kind)
        if size is None:
            size = _COUNTED[kind] + struct.unpack_from("<i", data, at)[0] if kind in _COUNTED else -1
        if size < 0:
            raise ValueError("a kind of field that is not known")
        if kind in _NUMBERS:
            found[name] = struct.unpack_from(_NUMBERS[kind], data, at)[0]
        elif kind == _BOOL:
            found[name] = data[at] == 1
        elif kind == _STRING:
            found[name] = data[at + 4 : at + size - 1].decode("utf-8", "replace")
        at += size
    return found
