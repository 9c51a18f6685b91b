# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m nhi_services` is the `nhi` command."""

from __future__ import annotations

import sys

from nhi_services.cli import main

if __name__ == "__main__":
    sys.exit(main())
