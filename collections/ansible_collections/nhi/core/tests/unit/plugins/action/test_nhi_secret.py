# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets in the vault: generated once, encrypted, told to nobody."""

from __future__ import annotations

import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleActionFail
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import VaultSecret
from ansible.playbook.task import Task
from ansible.template import Templar
from ansible_collections.nhi.core.plugins.action.nhi_secret import ActionModule
from ansible_collections.nhi.core.plugins.module_utils.audit_reader import Query, find
from ansible_collections.nhi.core.plugins.module_utils.deployment import DEPLOYMENT, begin, look
from ansible_collections.nhi.core.plugins.module_utils.errors import StateError
from ansible_collections.nhi.core.plugins.module_utils.lock import Holder
from ansible_collections.nhi.core.plugins.plugin_utils.vault_file import VaultFile

WANTED: list[dict[str, Any]] = [{"name": "db_root_password", "length": 24}, {"name": "db_app_password"}]


class Vault:
    """An operator with a vault password, and the action run for them."""

    def __init__(self, directory: Path, password: str | None = "correct horse") -> None:
        self.directory = directory
        self.loader = DataLoader()
        if password:
            self.loader.set_vault_secrets([("default", VaultSecret(password.encode()))])

    def run(self, *, check: bool = False, **options: Any) -> dict[str, Any]:
        task = Task()
        task.action = "nhi.core.nhi_secret"
        task.args = {
            "name": "db",
            "vault_dir": str(self.directory),
            "state_dir": str(self.directory.parent / "state"),
            **options,
        }
        task.check_mode = check
        task.async_val = 0
        templar = Templar(loader=self.loader, variables={})
        connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir="/not/used"))
        action = ActionModule(task, connection, None, self.loader, templar, None)
        result: dict[str, Any] = action.run(task_vars={})
        return result

    @property
    def file(self) -> Path:
        return self.directory / "services/db.yml"

    def values(self) -> dict[str, str]:
        found: dict[str, str] = yaml.safe_load(self.loader._vault.decrypt(self.file.read_bytes()))
        return found


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path / "vault")


def test_missing_secrets_are_generated_and_no_value_is_told(vault: Vault) -> None:
    result = vault.run(secrets=WANTED)
    assert result["changed"]
    assert result["generated"] == ["db_app_password", "db_root_password"]
    values = vault.values()
    assert [len(values[secret["name"]]) for secret in WANTED] == [24, 32]
    assert not [value for value in values.values() if value in str(result)]
    assert stat.S_IMODE(vault.file.stat().st_mode) == 0o600
    assert vault.file.read_text().startswith("$ANSIBLE_VAULT;")


def test_a_secret_that_is_there_is_never_replaced(vault: Vault) -> None:
    vault.run(secrets=WANTED[:1])
    before = vault.file.read_bytes()
    assert not vault.run(secrets=WANTED[:1])["changed"]
    assert vault.file.read_bytes() == before
    first = vault.values()["db_root_password"]
    assert vault.run(secrets=WANTED)["generated"] == ["db_app_password"]
    assert vault.values()["db_root_password"] == first


def test_check_mode_says_what_would_be_generated_and_writes_nothing(vault: Vault) -> None:
    assert vault.run(secrets=WANTED, check=True)["generated"] == ["db_app_password", "db_root_password"]
    assert not vault.directory.exists()


def test_named_secrets_are_removed_and_without_names_all(vault: Vault) -> None:
    vault.run(secrets=WANTED)
    assert vault.run(state="absent", secrets=WANTED[:1])["removed"] == ["db_root_password"]
    assert list(vault.values()) == ["db_app_password"]
    assert vault.run(state="absent", check=True)["removed"] == ["db_app_password"]
    assert vault.file.exists()
    assert vault.run(state="absent")["removed"] == ["db_app_password"]
    assert not vault.file.exists()
    assert not vault.run(state="absent")["changed"]


def test_another_vault_password_is_one_sentence_and_changes_nothing(vault: Vault) -> None:
    vault.run(secrets=WANTED)
    before = vault.file.read_bytes()
    with pytest.raises(AnsibleActionFail, match=r"db.yml can not be decrypted with the vault password at hand"):
        Vault(vault.directory, "another").run(secrets=[*WANTED, {"name": "db_more"}])
    assert vault.file.read_bytes() == before


def test_without_a_vault_password_nothing_is_written_in_clear(vault: Vault) -> None:
    with pytest.raises(AnsibleActionFail, match="There is no vault password to encrypt"):
        Vault(vault.directory, None).run(secrets=WANTED)
    assert not vault.file.exists()


def test_a_file_that_is_not_encrypted_is_refused(vault: Vault) -> None:
    vault.file.parent.mkdir(parents=True)
    vault.file.write_text("db_root_password: in clear\n")
    with pytest.raises(AnsibleActionFail, match="is not encrypted") as refused:
        vault.run(secrets=WANTED)
    assert "in clear" not in str(refused.value)


@pytest.mark.parametrize("name", ["../evil", "a/b", ""])
def test_a_name_that_is_no_guest_reaches_no_file(vault: Vault, name: str) -> None:
    with pytest.raises(AnsibleActionFail, match="can not name a guest"):
        vault.run(name=name, secrets=WANTED)
    assert not vault.directory.exists()


def test_a_length_that_is_too_short_is_refused(vault: Vault) -> None:
    with pytest.raises(AnsibleActionFail, match="from 12 to 128"):
        vault.run(secrets=[{"name": "db_pin", "length": 4}])


def test_new_secrets_are_in_the_record_before_they_are_in_the_vault_and_go_with_it(
    vault: Vault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault.run(secrets=WANTED[:1])
    before = vault.file.read_bytes()
    begin(tmp_path, "db", DEPLOYMENT, Holder.me("run-1"))
    of_deployment: dict[str, Any] = {"deployment": "run-1", "state_dir": str(tmp_path)}

    def full(_file: VaultFile, _values: object) -> None:
        raise StateError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(VaultFile, "write", full)
        with pytest.raises(AnsibleActionFail, match="the disk is full"):
            vault.run(secrets=WANTED, **of_deployment)
    record = look(tmp_path, "db")
    assert record is not None
    assert record.generated == ("db_app_password",)
    vault.run(secrets=WANTED, **of_deployment)
    assert vault.run(state="absent", **of_deployment)["removed"] == ["db_app_password"]
    assert list(vault.values()) == ["db_root_password"]
    assert vault.file.read_bytes() != before


def test_a_deployment_that_is_not_held_any_more_generates_nothing(vault: Vault, tmp_path: Path) -> None:
    with pytest.raises(AnsibleActionFail, match="What run-1 began with db was ended meanwhile"):
        vault.run(secrets=WANTED, deployment="run-1", state_dir=str(tmp_path))
    assert not vault.file.exists()


def test_what_was_generated_is_told_to_the_audit_log_by_name_only(vault: Vault) -> None:
    vault.run(secrets=WANTED)
    vault.run(secrets=WANTED)
    state = vault.directory.parent / "state"
    entries = list(find(state, Query()))
    assert [(e["operation"], e["outcome"]) for e in entries] == [
        ("nhi_secret/present", "allowed"),
        ("nhi_secret/present", "done"),
        ("nhi_secret/present", "done"),
    ]
    assert entries[1]["result"]["generated"] == ["db_app_password", "db_root_password"]
    assert entries[1]["params"]["secrets"] == ["db_root_password", "db_app_password"]
    log = b"".join(p.read_bytes() for p in (state / "audit").iterdir()).decode()
    assert not [value for value in vault.values().values() if value in log]


def test_no_secret_is_generated_that_the_audit_log_is_not_told_of(vault: Vault) -> None:
    (vault.directory.parent / "state").mkdir()
    (vault.directory.parent / "state/audit").write_text("in the way")
    with pytest.raises(AnsibleActionFail, match="the audit log in"):
        vault.run(secrets=WANTED)
    assert not vault.file.exists()


def test_a_refusal_is_told_too(vault: Vault) -> None:
    with pytest.raises(AnsibleActionFail):
        vault.run(name="../x", secrets=WANTED)
    (entry,) = find(vault.directory.parent / "state", Query())
    assert (entry["outcome"], entry["subject"]) == ("refused", "../x")
