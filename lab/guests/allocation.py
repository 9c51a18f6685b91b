"""New disks: `rootfs=local-lvm:8` and its like become volumes."""

from __future__ import annotations

import re

from lab.core import Lab
from lab.guests.volumes import parse_size, print_size, storage_of, volume_name, volumes_in
from lab.model import Config, Storage
from lab.server.call import Call
from lab.server.errors import bad_parameter, failure
from lab.server.properties import join, loose

_NEW = re.compile(r"(?:(?P<storage>[a-zA-Z][\w.\-]*):)?(?P<gib>\d+(?:\.\d+)?)")
NO_CONTENT = {"lxc": "container directories", "qemu": "vm images"}
CONTENT = {"lxc": "rootdir", "qemu": "images"}


def usable_storage(call: Call, name: str, parameter: str = "storage") -> Storage:
    """A storage that takes this kind's disks, on which the caller may allocate."""
    storage = call.lab.storage(name, call.node)
    if CONTENT[call.kind] not in storage.content:
        text = f"storage '{name}' does not support {NO_CONTENT[call.kind]}"
        raise bad_parameter(parameter, text) if call.kind == "lxc" else failure(text)
    call.require(f"/storage/{name}", "Datastore.AllocateSpace")
    return storage


def new_disk(value: str, default_storage: str, key: str = "volume") -> tuple[str, float] | None:
    """(storage, GiB) when the value asks for a new disk."""
    match = _NEW.fullmatch(loose(value, key).get(key, ""))
    if not match:
        return None
    return match["storage"] or default_storage, float(match["gib"])


def allocate(lab: Lab, vmid: int, config: Config, option: str, storage: str, gib: float, key: str = "volume") -> str:
    """The option's value with a volume in it; the driver makes the disk itself."""
    parts = loose(str(config[option]), key)
    parts.pop("import-from", None)
    taken = [volume for name, volume in _others(config, option)]
    parts[key] = volume_name(lab.storage(storage), vmid, taken)
    parts["size"] = print_size(gib * 1024)
    return join(parts, key)


def _others(config: Config, option: str) -> list[tuple[str, str]]:
    return [(name, volume) for name in config if name != option for volume in volumes_in({name: config[name]})]


def relocate(lab: Lab, vmid: int, config: Config, target: str = "") -> Config:
    """The same disks as volumes of another guest (clone, restore), possibly on another storage."""
    moved: Config = dict(config)
    taken: list[str] = []
    for option, value in config.items():
        for _ in volumes_in({option: value}):
            key = "volume" if loose(str(value)).get("volume") else "file"
            parts = loose(str(value), key)
            name = target or storage_of(str(value))
            if not name:
                continue
            if parts[key].endswith("cloudinit"):
                parts[key] = f"{name}:vm-{vmid}-cloudinit"
            else:
                parts[key] = volume_name(lab.storage(name), vmid, taken)
            taken.append(parts[key])
            moved[option] = join(parts, key)
    return moved


def grown(value: str, wanted: str) -> tuple[str, float]:
    """The option's value after a resize (`10G`, `+2G`), and the new size in MiB."""
    parts = loose(value)
    key = "volume" if "volume" in parts else "file"
    old = parse_size(parts.get("size", "0"))
    try:
        size = old + parse_size(wanted[1:]) if wanted.startswith("+") else parse_size(wanted)
    except ValueError:
        raise bad_parameter("size", "value does not match the regex pattern") from None
    if size < old:
        raise failure("unable to shrink disk size")
    parts["size"] = print_size(size)
    return join(parts, key), size
