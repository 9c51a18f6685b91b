# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of modules whose changes go through the gate, and the gate that they mean."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ._proxmox import PROXMOX_ARGS
from .change_gate import Gate
from .graph import DependencyGraph, graph_digest
from .guest_admission import Admission
from .lock import current_actor
from .plan_seal import secret_digest
from .plan_store import PlanStore, policy_in_force

GATE_ARGS: dict[str, dict[str, Any]] = {"policy": {"type": "path"}, "plan_id": {"type": "str"}}
# How a run reaches the API and this host, which is no part of what is asked for.
_NOT_ASKED_FOR = frozenset({*PROXMOX_ARGS, *GATE_ARGS, "state_dir", "known_hosts", "catalogue", "deployment"}) - {
    "api_host",
    "api_port",
}


def admission_from_params(
    params: Mapping[str, Any],
    spec: Mapping[str, Mapping[str, Any]],
    module: str,
    graph: DependencyGraph | None,
    *,
    check_mode: bool,
) -> Admission:
    """The gate of this run, open to all where there is no policy; PolicyError for one that can not be used."""
    state_dir = Path(params["state_dir"])
    policy = policy_in_force(params["policy"], state_dir, params["plan_id"])
    if policy is None:
        return Admission()
    request = {"module": module, **_asked_for(params, spec, state_dir)}
    gate = Gate(
        state_dir, policy, current_actor(), request, graph=graph_digest(graph), plan_id=params["plan_id"] or None
    )
    return Admission(gate, check_mode=check_mode, made_by=params.get("made_by"))


def _asked_for(params: Mapping[str, Any], spec: Mapping[str, Mapping[str, Any]], state_dir: Path) -> dict[str, Any]:
    """Options that were given, secrets only as something that changes with them."""
    asked: dict[str, Any] = {}
    for name, option in spec.items():
        value = params.get(name)
        if name in _NOT_ASKED_FOR or value is None or value == option.get("default"):
            continue
        asked[name] = secret_digest(PlanStore(state_dir).key, str(value)) if option.get("no_log") else value
    return asked
