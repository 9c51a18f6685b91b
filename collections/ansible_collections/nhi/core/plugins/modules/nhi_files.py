#!/usr/bin/python
# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the configuration files of a service together."""

from __future__ import annotations

DOCUMENTATION = r"""
module: nhi_files
short_description: Write the configuration files of a service together
version_added: "0.1.0"
description:
  - Writes several small files in one go, all of them or none. Each is written aside with its owner and mode, and put in
    place by rename.
  - A program that will read a file can check it first, in check mode too. If it refuses one, none is changed.
  - One task takes one round trip to the host, where M(ansible.builtin.template) takes three for each file.
  - Directories that are missing are made, owned by root, mode 0755.
author: NHI contributors (@nhi)
extends_documentation_fragment:
  - nhi.core.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  files:
    description: What each file should be.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Absolute path. A symbolic link there is replaced by the file.
        type: path
        required: true
      content:
        description:
          - The whole content.
          - Of a template it is C(lookup('ansible.builtin.template', 'NAME.j2')).
          - With secrets in it, set C(no_log) on the task.
        type: str
        required: true
      owner:
        description: User that owns it. Without it the owner stays, and is the user who runs this for a new file.
        type: str
      group:
        description: Group that owns it. Without it the group stays.
        type: str
      mode:
        description: Permissions, in octal. Without it they stay, and are 0644 for a new file.
        type: str
      validate:
        description:
          - Command that reads the new content before it counts; C(%s) stands for the file.
          - It runs without a shell. Anything but exit status 0 refuses the content.
        type: str
  unit:
    description:
      - Unit of systemd that reads the files when it starts.
      - If it runs and has not read one of them since that was written, the result is C(changed) although no file is, so
        that a handler restarts it. A run that was killed between the two leaves such a service.
    type: str
  read_at:
    description: When O(unit) reads the files. With V(reload) a reload or a restart has read them.
    type: str
    choices: [start, reload]
    default: start
seealso:
  - module: ansible.builtin.template
  - module: ansible.builtin.copy
"""

EXAMPLES = r"""
- name: Write the configuration
  nhi.core.nhi_files:
    files:
      - path: /etc/redis/redis.conf
        content: "{{ lookup('ansible.builtin.template', 'redis.conf.j2') }}"
        owner: redis
        group: redis
        mode: "0640"
      - path: /etc/systemd/system/redis-server.service.d/nhi.conf
        content: "{{ lookup('ansible.builtin.template', 'nhi.conf.j2') }}"
        owner: root
        group: root
        mode: "0644"
    unit: redis-server.service
  no_log: true
  notify: Restart Redis
"""

RETURN = r"""
files:
  description: Paths of the files that were changed, or in check mode would be.
  returned: success
  type: list
  elements: str
  sample: [/etc/redis/redis.conf]
unread:
  description: Paths of files that are as they should be, and that O(unit) runs without having read.
  returned: success
  type: list
  elements: str
  sample: []
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nhi.core.plugins.module_utils.config_files import (
    ConfigFile,
    check,
    compare,
    put_in_place,
    unread,
)
from ansible_collections.nhi.core.plugins.module_utils.errors import NHIError


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "files": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "path": {"type": "path", "required": True},
                    "content": {"type": "str", "required": True},
                    "owner": {"type": "str"},
                    "group": {"type": "str"},
                    "mode": {"type": "str"},
                    "validate": {"type": "str"},
                },
            },
            "unit": {"type": "str"},
            "read_at": {"type": "str", "choices": ["start", "reload"], "default": "start"},
        },
        supports_check_mode=True,
    )
    try:
        files = [ConfigFile.parse(options) for options in module.params["files"]]
        changes = compare(files)
        changed = [change.file for change in changes]
        check(changes)
        old = []
        if module.params["unit"]:
            same = [file for file in files if file not in changed]
            old = unread(same, module.params["unit"], reload_counts=module.params["read_at"] == "reload")
        if changes and not module.check_mode:
            put_in_place(changes)
    except NHIError as error:
        module.fail_json(msg=str(error))
    result = {
        "changed": bool(changes or old),
        "files": [str(file.path) for file in changed],
        "unread": [str(path) for path in old],
    }
    if module._diff:
        result["diff"] = [part for change in changes for part in change.diff()]
    module.exit_json(**result)


if __name__ == "__main__":
    main()
