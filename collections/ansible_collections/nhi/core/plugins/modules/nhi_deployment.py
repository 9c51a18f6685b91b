#!/usr/bin/python

# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nhi_deployment
short_description: Write down that a service is being deployed or removed, so that a run that is cut off can be undone
version_added: 0.1.0
description:
  - Keeps one record for each guest with which something is unfinished, C(deployments/NAME.jsonl) in O(state_dir). It
    says who began what and when. M(nhi.core.nhi_secret), M(nhi.core.nhi_vm) and M(nhi.core.nhi_service) with their
    option O(deployment) add what they are about to make.
  - The run of C(ansible-playbook) that began holds the record as long as it lives. Another run for the same guest is
    refused until then, and takes the record over afterwards, with all that the first one made.
  - The record goes when the service is registered, when what the deployment made is undone, or when the service is
    removed. One that stays is what C(nhi services) and C(nhi status) report as cut off.
  - It runs on the controller, whatever host the task is for.
extends_documentation_fragment:
  - nhi.core.attributes
attributes:
  check_mode:
    support: full
    details:
      - Begins nothing, and warns of what is unfinished with the guest.
  diff_mode:
    support: none
  idempotent:
    support: full
    details:
      - Reports no change, as the record is no part of what is asked for.
options:
  name:
    description: Name of the guest.
    type: str
    required: true
  state:
    description:
      - V(begun) and V(removing) hold the record for this run, for a deployment or for a removal.
      - V(undoing) tells what the deployment made so far. That is nothing when it ended meanwhile.
      - V(undone) says that nothing is left of what this run began. A removal that an earlier run began stays
        unfinished.
      - V(ended) says that all is done.
    type: str
    choices: [begun, removing, undoing, undone, ended]
    default: begun
  service:
    description: Name of the service's catalogue entry.
    type: str
  purpose:
    description: What the service is for, one word.
    type: str
  deployment:
    description:
      - The run, as RV(deployment) of the task that began names it. Needed for all but V(begun) and V(removing).
    type: str
  state_dir:
    description: Directory of C(state.json).
    type: path
    required: true
seealso:
  - module: nhi.core.nhi_secret
  - module: nhi.core.nhi_vm
  - module: nhi.core.nhi_service
author:
  - NHI contributors (@nhi-lab)
"""

EXAMPLES = r"""
- name: Begin
  nhi.core.nhi_deployment:
    name: redis-cache
    service: redis
    purpose: cache
    state_dir: /var/lib/nhi
  register: begun

- name: Create the guest
  nhi.core.nhi_vm:
    state: started
    name: redis-cache
    template: debian-12
    deployment: "{{ begun.deployment }}"
    state_dir: /var/lib/nhi

- name: Check it from outside, register it and end the deployment
  nhi.core.nhi_service:
    name: redis-cache
    service: redis
    address: 192.0.2.105
    catalogue: "{{ query('nhi.core.nhi_catalogue') }}"
    deployment: "{{ begun.deployment }}"
    state_dir: /var/lib/nhi
"""

RETURN = r"""
deployment:
  description: Names the run for the tasks that follow. Empty in check mode.
  returned: success
  type: str
  sample: run-5e0f2a9c1b7d
made:
  description: Operations of M(nhi.core.nhi_vm) that may have made the guest, also in runs that were cut off.
  returned: success
  type: list
  elements: str
  sample: [op-1b2c3d4e5f60]
generated:
  description: Names of the secrets that were generated, also in runs that were cut off.
  returned: success
  type: list
  elements: str
  sample: [mariadb_root_password]
registered:
  description: Whether the registration of the service was changed, or was about to be.
  returned: success
  type: bool
  sample: false
"""
