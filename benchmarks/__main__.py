# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run every benchmark, the quick one first; 1 when one of them missed a goal."""

from __future__ import annotations

import sys

from benchmarks import audit, history, inventory, plan, router, scan, service, state

if __name__ == "__main__":
    sys.exit(max(benchmark.main([]) for benchmark in (state, audit, history, inventory, plan, scan, service, router)))
