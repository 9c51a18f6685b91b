# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Texts and names as the owner of a guest, or whoever stands in for the API, would choose them to do harm."""

from __future__ import annotations

# Clears the screen, forges a line, turns the reading direction, and runs a program where somebody lets it.
TEXT = (
    "{{ lookup('pipe', 'touch pwned') }}{% for x in [1] %}\x1b[2J\x9b1m\r\nTASK [forged]\u202e\u2028"
    "<script>alert(1)</script>$(touch pwned)`touch pwned`; touch pwned #\x7f\0"
)
# Where the name of one thing is asked for: other files, other arguments, more than one line, no end.
NAMES = (
    "../evil", "../../../../tmp/evil", "/etc/passwd", "..", ".", "a/b", "a\\b", "a\0b", "a\nb", "a\x1b[2Jb", "-rf",
    "--check", "x" * 5000, "\uff41", "web\u20101", "{{ 7 * 7 }}", "$(id)", "a b", "a;b", "",
)  # fmt: skip
