# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read the service catalogue from its YAML files, on the controller or in the package of the services."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .catalogue import CatalogueEntry, parse_entry
from .errors import CatalogueError

if TYPE_CHECKING:
    from collections.abc import Iterable

try:
    import yaml
except ImportError:
    HAS_YAML = False
else:
    HAS_YAML = True

SHIPPED = Path(__file__).resolve().parents[2] / "catalogue"


def read_catalogue(directories: Iterable[str | Path] = ()) -> dict[str, CatalogueEntry]:
    """Entries of the collection and of further directories by name; a later directory replaces an entry."""
    if not HAS_YAML:
        raise CatalogueError("reading the catalogue needs the Python library PyYAML: pip install PyYAML")
    catalogue: dict[str, CatalogueEntry] = {}
    for directory in [SHIPPED, *map(Path, directories)]:
        if not directory.is_dir():
            raise CatalogueError(f"the catalogue directory {directory} does not exist: correct its path or create it")
        files = sorted(path for path in directory.iterdir() if path.suffix in (".yml", ".yaml"))
        for entry in map(_read_entry, files):
            catalogue[entry.name] = entry
    return dict(sorted(catalogue.items()))


def _read_entry(path: Path) -> CatalogueEntry:
    try:
        # The parser in C where there is one: it takes a tenth of the time, and every look-up reads all entries.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        entry = parse_entry(yaml.load(path.read_text(encoding="utf-8"), loader), str(path))  # noqa: S506 -- a safe one
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CatalogueError(f"the catalogue entry {path} can not be read: {error}") from error
    if entry.name != path.stem:
        raise CatalogueError(f"the catalogue entry in {path} is named {entry.name}: name the file {entry.name}.yml")
    return entry
