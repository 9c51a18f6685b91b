"""Cut the served part out of a full description of the Proxmox VE API.

`python -m lab.data.extract FULL.json` rewrites `schema.json` beside this file: for every endpoint that
lab.api serves, its parameters, its declared permission check and whether an API token may call it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from lab.server.router import routes

TARGET = Path(__file__).with_name("schema.json")

# Parameters of the name "source" are not in the full description.
TASK_SOURCE = {"default": "archive", "enum": ["archive", "active", "all"], "optional": 1, "type": "string"}
RULE_SOURCE = {"format": "pve-fw-addr-spec", "maxLength": 512, "optional": 1, "type": "string"}


def extract(full: dict[str, Any]) -> dict[str, Any]:
    """The served endpoints only; shapes of results and prose stay behind."""
    served: dict[str, Any] = {}
    for route in routes():
        entry = full[route.path][route.method]
        parameters = dict(entry["parameters"].get("properties", {}))
        if "typefilter" in parameters:
            parameters.setdefault("source", TASK_SOURCE)
        if "dest" in parameters:
            parameters.setdefault("source", RULE_SOURCE)
        served.setdefault(route.path, {})[route.method] = {
            "parameters": parameters,
            "permissions": entry.get("permissions", {}),
            "allowtoken": entry.get("allowtoken", 1),
        }
    return served


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: python -m lab.data.extract FULL.json", file=sys.stderr)
        return 2
    full = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    text = json.dumps(extract(full), separators=(",", ":"), sort_keys=True)
    TARGET.write_text(text.replace('},"/', '},\n"/') + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
