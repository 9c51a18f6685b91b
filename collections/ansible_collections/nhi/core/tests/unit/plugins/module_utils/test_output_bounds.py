# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Output that is kept stays within its bounds, and says what was left out."""

from __future__ import annotations

from ansible_collections.nhi.core.plugins.module_utils.output_bounds import Capture, LastLines, Lines
from hypothesis import given
from hypothesis import strategies as st


@given(st.lists(st.binary(max_size=30)), st.integers(2, 40))
def test_both_ends_of_a_stream_are_kept(chunks: list[bytes], limit: int) -> None:
    whole, capture = b"".join(chunks), Capture(limit)
    for chunk in chunks:
        capture.feed(chunk)
    assert capture.size == len(whole)
    if len(whole) <= limit // 2 * 2:
        assert (capture.text, capture.left_out) == (whole.decode(errors="replace"), 0)
    else:
        half = limit // 2
        assert capture.left_out == len(whole) - 2 * half
        assert capture.text.startswith(whole[:half].decode(errors="replace"))
        assert capture.text.endswith(whole[-half:].decode(errors="replace"))
        assert f"\n... ({capture.left_out} bytes left out) ...\n" in capture.text


@given(st.lists(st.binary(max_size=20)))
def test_lines_are_whole_wherever_the_stream_is_cut(chunks: list[bytes]) -> None:
    shown: list[str] = []
    lines = Lines(shown.append, longest_bytes=1000)
    for chunk in chunks:
        lines.feed(chunk)
    lines.close()
    whole = b"".join(chunks).split(b"\n")
    expected = [part.decode(errors="replace").removesuffix("\r") for part in (whole if whole[-1] else whole[:-1])]
    assert shown == expected


def test_a_long_line_is_cut_and_says_so() -> None:
    shown: list[str] = []
    lines = Lines(shown.append, longest_bytes=4)
    lines.feed(b"abcdef")
    lines.feed(b"gh\nij\n")
    assert shown == ["abcd... (4 bytes left out)", "ij"]


def test_the_last_lines_are_kept_and_never_none() -> None:
    kept = LastLines(6)
    for line in ("a", "bb", "cc", "dddddddddd"):
        kept.add(line)
    assert list(kept) == ["dddddddddd"]
    assert kept.left_out == 3
