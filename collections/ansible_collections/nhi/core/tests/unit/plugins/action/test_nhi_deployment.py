# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tasks of a deployment hear of its record."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible.parsing.dataloader import DataLoader
from ansible.playbook.task import Task
from ansible.template import Templar
from ansible_collections.nhi.core.plugins.action.nhi_deployment import ActionModule
from ansible_collections.nhi.core.plugins.module_utils.deployment import DEPLOYMENT, REMOVAL, begin, look, step
from ansible_collections.nhi.core.plugins.module_utils.lock import Holder


class Run:
    """The action as a playbook runs it."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir

    def __call__(self, *, check: bool = False, **options: Any) -> dict[str, Any]:
        task = Task()
        task.action = "nhi.core.nhi_deployment"
        task.args = {"name": "db", "state_dir": str(self.state_dir), **options}
        task.check_mode = check
        task.async_val = 0
        loader = DataLoader()
        connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir="/not/used"))
        action = ActionModule(task, connection, None, loader, Templar(loader=loader, variables={}), None)
        result: dict[str, Any] = action.run(task_vars={})
        assert result["changed"] is False
        return result


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def dead() -> Holder:
    return Holder("run-0", "ada", 2**22 + 1, Holder.me("x").host, "then", "x")


def test_a_deployment_begins_tells_what_it_made_and_ends(run: Run) -> None:
    begun = run(service="redis", purpose="cache")
    assert (begun["made"], begun["generated"], begun["registered"], begun["warnings"]) == ([], [], False, [])
    name = begun["deployment"]
    with step(run.state_dir, "db", name) as deployment:
        assert deployment is not None
        deployment.makes("op-1")
        deployment.generates(["password"])
        deployment.registers({})
    told = run(state="undoing", deployment=name)
    assert (told["made"], told["generated"], told["registered"]) == (["op-1"], ["password"], True)
    run(state="ended", deployment=name)
    assert look(run.state_dir, "db") is None
    assert run(state="undoing", deployment=name)["made"] == []


def test_what_is_undone_is_forgotten(run: Run) -> None:
    name = run(service="redis")["deployment"]
    run(state="undone", deployment=name)
    assert look(run.state_dir, "db") is None


def test_a_run_that_goes_on_where_another_was_cut_off_says_so(run: Run) -> None:
    begin(run.state_dir, "db", DEPLOYMENT, dead(), "redis", "cache")
    (warning,) = run(service="redis")["warnings"]
    assert warning.startswith("The deployment of db (redis) was cut off: ada began it at then.")


def test_a_dry_run_only_says_what_is_unfinished(run: Run) -> None:
    assert run(check=True)["warnings"] == []
    begin(run.state_dir, "db", REMOVAL, dead(), "redis", "cache")
    before = look(run.state_dir, "db")
    told = run(check=True, service="redis")
    assert told["deployment"] == ""
    assert "Finish it with `ansible-playbook playbooks/remove_service.yml" in told["warnings"][0]
    assert look(run.state_dir, "db") == before


@pytest.mark.parametrize("name", ["../evil", ""])
def test_a_name_that_is_no_guest_reaches_no_file(run: Run, name: str) -> None:
    with pytest.raises(AnsibleActionFail, match="can not name a guest"):
        run(name=name)
    assert list(run.state_dir.iterdir()) == []


@pytest.mark.parametrize("state", ["undoing", "undone", "ended"])
def test_only_the_run_that_began_can_end(run: Run, state: str) -> None:
    run(service="redis")
    with pytest.raises(AnsibleActionFail, match="Nothing was done for run-other"):
        run(state=state, deployment="run-other")
    with pytest.raises(AnsibleActionFail, match="deployment"):
        run(state=state)
