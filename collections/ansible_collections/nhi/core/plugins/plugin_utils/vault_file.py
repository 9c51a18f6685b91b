# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The secrets of one guest, or of one part of the lab, in one file that is encrypted as a whole.

The password is that of the running Ansible's vault.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleError
from ansible.parsing.vault import VaultLib, is_encrypted
from ansible_collections.nhi.core.plugins.module_utils.errors import StateError
from ansible_collections.nhi.core.plugins.module_utils.files import (
    discard,
    explain,
    read_if_exists,
    sync_directory,
    write_new,
)
from ansible_collections.nhi.core.plugins.module_utils.lock import FileLock

SERVICES = "services"


class VaultFile:
    """``FOLDER/NAME.yml`` in a vault's directory; guests are in ``SERVICES``."""

    def __init__(self, directory: Path, name: str, vault: VaultLib, folder: str = SERVICES) -> None:
        self.path = directory / folder / f"{name}.yml"
        self._vault = vault

    def locked(self) -> FileLock:
        """For a read and the write that follows from it; makes the directory."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as e:
            raise StateError(f"{self.path.parent} can not be made: {explain(e)}; correct nhi_vault_dir") from e
        return FileLock(self.path.parent / ".lock", f"change the secrets in {self.path.name}")

    def read(self) -> dict[str, Any]:
        """The values by name; nothing where there is no file."""
        try:
            raw = read_if_exists(self.path)
        except OSError as e:
            raise StateError(f"{self.path} can not be read: {explain(e)}; correct its owner") from e
        if raw is None:
            return {}
        if not is_encrypted(raw):
            raise StateError(
                f"{self.path} is not encrypted: encrypt it with `ansible-vault encrypt`, and change what is in it"
            )
        try:
            found = yaml.safe_load(self._vault.decrypt(raw))
        except AnsibleError as e:
            raise StateError(
                f"{self.path} can not be decrypted with the vault password at hand: give the one it was made with"
                " (--vault-password-file or --ask-vault-pass)"
            ) from e
        except yaml.YAMLError as e:
            # The parser's own words quote what it stumbled over.
            raise StateError(f"{self.path} holds no YAML: correct it with `ansible-vault edit`") from e
        if not isinstance(found, dict):
            raise StateError(f"{self.path} holds no mapping of names to values: correct it with `ansible-vault edit`")
        return found

    def write(self, values: Mapping[str, Any]) -> None:
        """Replace the file, at once or not at all; without values it is removed."""
        try:
            if not values:
                self.path.unlink(missing_ok=True)
            else:
                self._replace(self._encrypted(values))
            sync_directory(self.path.parent)
        except OSError as e:
            raise StateError(f"{self.path} can not be written: {explain(e)}; make room or correct nhi_vault_dir") from e

    def _encrypted(self, values: Mapping[str, Any]) -> bytes:
        if not self._vault.secrets:
            raise StateError(
                f"There is no vault password to encrypt {self.path} with: set vault_password_file in ansible.cfg,"
                " or run with --ask-vault-pass"
            )
        # Strings that come from a playbook are Ansible's own kind, which YAML does not know.
        plain = json.loads(json.dumps(dict(values)))
        text = "---\n" + yaml.safe_dump(plain, sort_keys=True)
        encrypted: bytes = self._vault.encrypt(text)
        return encrypted

    def _replace(self, content: bytes) -> None:
        new = self.path.with_suffix(".yml.tmp")
        try:
            write_new(new, content, 0o600)
            new.replace(self.path)
        except OSError:
            discard(new)
            raise
