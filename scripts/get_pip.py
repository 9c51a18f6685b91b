"""Put pip into a bare virtual environment from the standard library, then install what was asked.

ansible-test downloads a script for this; this one takes its place, so that sanity tests need a package index and
nothing else. scripts/ansible_test.sh puts it where ansible-test looks.
"""

from __future__ import annotations

import subprocess
import sys

arguments = [argument for argument in sys.argv[1:] if argument not in ("--no-setuptools", "--no-wheel")]
# A process of its own: ensurepip switches off pip's configuration in the process it runs in.
subprocess.run([sys.executable, "-m", "ensurepip"], check=True, stdout=subprocess.DEVNULL)
sys.exit(subprocess.run([sys.executable, "-m", "pip", "install", "-q", *arguments], check=False).returncode)
