# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of look-ups that say where they read: the service catalogue, the state."""

from __future__ import annotations


class ModuleDocFragment:
    """Fragments ``nhi.core.lookup_sources.catalogue_directories`` and ``nhi.core.lookup_sources.state_directory``."""

    CATALOGUE_DIRECTORIES = r"""
options:
  directories:
    description:
      - Further directories of the catalogue, with one C(<name>.yml) for each service. An entry there replaces one of
        the same name.
    type: list
    elements: path
    default: []
    ini:
      - section: nhi
        key: catalogue_directories
    env:
      - name: NHI_CATALOGUE_DIRECTORIES
    vars:
      - name: nhi_catalogue_directories
"""

    STATE_DIRECTORY = r"""
options:
  state_dir:
    description:
      - Directory of C(state.json). A relative path is relative to the working directory.
      - The inventory plugin P(nhi.core.nhi_state#inventory) sets the variable to the directory that it read.
    type: str
    default: infrastructure
    env:
      - name: NHI_STATE_DIR
    vars:
      - name: nhi_state_dir
"""
