# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The list of models, as OpenAI's and as Anthropic's clients know it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nhi_services.router.api_errors import ApiError
from nhi_services.router.config import ALIAS_PREFIX
from nhi_services.router.live import Setup

# When a model was made is not known here.
_NO_TIME = "1970-01-01T00:00:00Z"


def is_anthropic(headers: Mapping[str, str]) -> bool:
    """Whether a client of Anthropic's asks."""
    return "anthropic-version" in headers


def list_models(setup: Setup, headers: Mapping[str, str]) -> dict[str, Any]:
    """All models, and the aliases of tasks."""
    listed = [_listed(setup, name, owner, headers) for name, owner in _names(setup).items()]
    if is_anthropic(headers):
        return {"data": listed, "has_more": False, "first_id": listed[0]["id"], "last_id": listed[-1]["id"]}
    return {"object": "list", "data": listed}


def one_model(setup: Setup, name: str, headers: Mapping[str, str]) -> dict[str, Any]:
    """One of them; ApiError 404 where there is none."""
    owner = _names(setup).get(name)
    if owner is None:
        raise ApiError(404, "There is no such model here.", param="model", code="model_not_found")
    return _listed(setup, name, owner, headers)


def _names(setup: Setup) -> dict[str, str]:
    models = {name: model.provider for name, model in setup.picture.models.items()}
    return {**models, **{ALIAS_PREFIX + task: "nhi" for task in setup.config.tasks}}


def _listed(setup: Setup, name: str, owner: str, headers: Mapping[str, str]) -> dict[str, Any]:
    if not is_anthropic(headers):
        return {"id": name, "object": "model", "created": 0, "owned_by": owner}
    model = setup.picture.models.get(name)
    bounds = {"max_input_tokens": model.context, "max_tokens": model.max_output} if model else {}
    return {
        "type": "model", "id": name, "display_name": f"{name} ({owner})", "created_at": _NO_TIME,
        "lifecycle": "active", **bounds,
    }  # fmt: skip
