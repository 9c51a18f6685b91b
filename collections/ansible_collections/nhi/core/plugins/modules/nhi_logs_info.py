#!/usr/bin/python

# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nhi_logs_info
short_description: Read the log of a service, wherever it is kept on its guest
version_added: "0.1.0"
description:
  - Finds the guest of a service in C(state.json), logs in to it over SSH with its recorded host key, and returns the
    last lines of the service's log, from the journal, a file or Docker, as its catalogue entry says.
  - The log of a guest without a known service is its whole journal.
  - Rules under C(exec) in the policy say whose logs who may read. Without a policy nobody may read any.
  - That they were read is told to the audit log, but not what is in them.
extends_documentation_fragment:
  - nhi.core.attributes
  - nhi.core.attributes.info_module
  - nhi.core.state
  - nhi.core.ssh
options:
  name:
    description:
      - A service that only one guest offers, or the name or VMID of a guest.
      - C(SERVICE@GUEST) and C(SERVICE/PURPOSE) tell several apart.
    type: str
    required: true
  lines:
    description: How many lines at most, from 1 to 10000.
    type: int
    default: 100
  since:
    description:
      - Only lines from this moment on, such as V(2026-11-26T14:00Z), V(yesterday 14:00) or V(2 hours ago). Without an
        offset it is a time of this host, whatever the time zone of the guest.
      - In a file this needs lines that have a time.
    type: str
  output_limit:
    description: How many bytes of lines are returned. The oldest are left out.
    type: int
    default: 262144
  catalogue:
    description: Entries of the service catalogue, as P(nhi.core.nhi_catalogue#lookup) returns them.
    type: list
    elements: dict
    default: []
  policy:
    description: File that says who may do what. C(policy.json) in O(state_dir) is read if not specified.
    type: path
  known_hosts:
    description: File with the host keys of the guests, as M(nhi.core.nhi_vm) records them. Others are not logged in to.
      C(known_hosts) in O(state_dir) is read if not specified.
seealso:
  - module: nhi.core.nhi_exec
author:
  - NHI contributors (@nhi-lab)
"""

EXAMPLES = r"""
- name: Read what the web server complained about
  nhi.core.nhi_logs_info:
    name: nginx
    since: 2 hours ago
    catalogue: "{{ query('nhi.core.nhi_catalogue') }}"
    state_dir: /var/lib/nhi
  register: log
"""

RETURN = r"""
guest:
  description: The guest that was meant.
  type: str
  returned: success
  sample: nginx-web
vmid:
  description: VMID of the guest.
  type: int
  returned: success
  sample: 106
address:
  description: Address of the guest.
  type: str
  returned: success
  sample: 192.0.2.106
service:
  description: The service that was meant. Null where it is the journal of a guest.
  type: str
  returned: success
  sample: nginx
source:
  description: Where the lines come from.
  type: str
  returned: success
  sample: the file /var/log/nginx/error.log
lines:
  description: The lines, oldest first.
  type: list
  elements: str
  returned: success
  sample: []
limited:
  description: Whether there may be more than was asked for or fits.
  type: bool
  returned: success
  sample: false
"""

from functools import partial
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nhi.core.plugins.module_utils._audited import ModuleAttempt
from ansible_collections.nhi.core.plugins.module_utils._ssh_args import SSH_ARGS
from ansible_collections.nhi.core.plugins.module_utils._state_args import STATE_ARGS
from ansible_collections.nhi.core.plugins.module_utils.catalogue import load_catalogue
from ansible_collections.nhi.core.plugins.module_utils.errors import NHIError
from ansible_collections.nhi.core.plugins.module_utils.moments import parse_moment
from ansible_collections.nhi.core.plugins.module_utils.remote_hands import Hands, Site
from ansible_collections.nhi.core.plugins.module_utils.service_logs import LogWish
from ansible_collections.nhi.core.plugins.module_utils.state_document import utc_now

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    **STATE_ARGS,
    **SSH_ARGS,
    "name": {"type": "str", "required": True},
    "lines": {"type": "int", "default": 100},
    "since": {"type": "str"},
    "output_limit": {"type": "int", "default": 262144},
    "catalogue": {"type": "list", "elements": "dict", "default": []},
    "policy": {"type": "path"},
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    params = module.params
    try:
        since = parse_moment(params["since"], utc_now()) if params["since"] else None
        attempt = partial(ModuleAttempt, secrets=module.no_log_values)
        site = Site.of(params, load_catalogue(params["catalogue"]), attempt=attempt, tell=module.warn)
        wish = LogWish(params["lines"], since)
        read = Hands(site).logs(params["name"], wish, limit_bytes=params["output_limit"])
    except NHIError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **read.as_dict())


if __name__ == "__main__":
    main()
