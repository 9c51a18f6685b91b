"""Ratios against named peers: `python -m benchmarks` runs all of them, `python -m benchmarks.NAME` one."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

# The collection is imported from this checkout, as Ansible finds it.
sys.path.insert(0, str(ROOT / "collections"))
