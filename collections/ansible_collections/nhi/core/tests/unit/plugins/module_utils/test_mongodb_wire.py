# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""MongoDB's wire protocol, against bytes written by hand after its specification and a real answer."""

from __future__ import annotations

import struct

import pytest
from ansible_collections.nhi.core.plugins.module_utils.mongodb_wire import (
    HEADER_SIZE,
    answer_fields,
    body_size,
    hello_request,
)


def body(fields: bytes) -> bytes:
    """Flags, the kind of the section, and one document."""
    return bytes(5) + struct.pack("<i", len(fields) + 5) + fields + b"\0"


def test_the_question_is_one_message_with_true_lengths() -> None:
    request = hello_request()
    size, _number, _answers, operation = struct.unpack("<iiii", request[:HEADER_SIZE])
    document = request[HEADER_SIZE + 5 :]

    assert (size, operation) == (len(request), 2013)
    assert struct.unpack("<i", document[:4])[0] == len(document)
    assert answer_fields(request[HEADER_SIZE:]) == {"hello": 1, "$db": "admin"}


def test_every_kind_of_field_is_stepped_over() -> None:
    kinds = [
        b"\x03topologyVersion\0" + struct.pack("<i", 5) + b"\0",
        b"\x04hosts\0" + struct.pack("<i", 5) + b"\0",
        b"\x05hash\0" + struct.pack("<i", 3) + b"\0abc",
        b"\x07processId\0" + bytes(range(12)),
        b"\x09localTime\0" + struct.pack("<q", 1_700_000_000_000),
        b"\x0anothing\0",
        b"\x11operationTime\0" + bytes(8),
        b"\x12counter\0" + struct.pack("<q", 2**40),
        b"\x08readOnly\0\0",
        b"\x02setName\0" + struct.pack("<i", 4) + b"rs0\0",
        b"\x01ok\0" + struct.pack("<d", 1),
    ]

    assert answer_fields(body(b"".join(kinds))) == {"counter": 2**40, "readOnly": False, "setName": "rs0", "ok": 1.0}


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        bytes(4) + b"\1" + bytes(20),
        body(b"\x01ok\0" + struct.pack("<d", 1))[:-6],
        body(b"\x7fstrange\0" + bytes(8)),
        body(b"\x03endless\0" + struct.pack("<i", -1)),
        body(b"\x03huge\0" + struct.pack("<i", 2**30)),
        bytes(5) + b"\x05\0\0\0\x10no end of the name",
    ],
)
def test_what_is_no_document_has_no_fields(broken: bytes) -> None:
    assert answer_fields(broken) == {}


@pytest.mark.parametrize(
    ("size", "operation", "follows"),
    [(100, 2013, 84), (100, 1, None), (15, 2013, None), (-1, 2013, None), (2**31 - 1, 2013, None)],
)
def test_a_header_says_how_much_follows(size: int, operation: int, follows: int | None) -> None:
    assert body_size(struct.pack("<iiii", size, 7, 1, operation)) == follows
