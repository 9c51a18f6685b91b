"""Guests' files: an overlay of the guest's own layer over a template's image.

Why an overlay: the image is shared and never written, so a guest costs no time or space until it changes
something; its layer holds *all* of its changes, so a copy of the layer is a full snapshot and putting the
copy back a full rollback. The mount belongs to the container's own mount namespace (lxc makes it) or to a
helper's (lxc_host.sandbox), so no mount of the host is ever left over. A restored archive lies over an
empty image: the same code, no second kind of guest.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lab.drivers.base import DriverError
from lab.drivers.lxc_host import run, sandbox

# The file systems' defaults differ between kernels; with these a layer can be copied and moved.
OVERLAY_OPTIONS = "index=off,metacopy=off,redirect_dir=off"
_TAR = "tar --numeric-owner --acls --xattrs --xattrs-include='*' --xattrs-exclude='trusted.overlay.*'"
_MOUNT = 'mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work,$3" "$4"; cd "$4"\n'


@dataclass(frozen=True)
class Rootfs:
    """Image and layer of one guest; `mount` is an empty directory to mount them on."""

    image: Path
    layer: Path
    mount: Path

    @property
    def upper(self) -> Path:
        """The directory that holds the guest's changes."""
        return self.layer / "upper"

    def lxc_path(self) -> str:
        """As `lxc.rootfs.path` wants it; lxc finds `work` beside `upper` itself."""
        return f"overlay:{self.image}:{self.upper}"

    def prepare(self) -> None:
        """Make the directories of an empty layer, owned and moded like a root directory."""
        for directory in (self.upper, self.layer / "work", self.mount):
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(0o755)

    def script(self, script: str, *arguments: str, what: str, stdin: bytes = b"") -> str:
        """Run a bash script in the mounted root directory of the stopped guest; its arguments begin at $5."""
        paths = (self.image, self.layer, OVERLAY_OPTIONS, self.mount)
        return sandbox(_MOUNT + script, *paths, *arguments, what=what, stdin=stdin)

    def pack(self, target: Path) -> None:
        """Write all files as one archive, or nothing."""
        with _whole(target) as partial:
            self.script(f'{_TAR} --sparse -c . | {_compressor(target)} >"$5"', str(partial), what=f"packing {target}")

    def unpack(self, archive: Path) -> None:
        """Fill the empty layer from an archive."""
        extract(archive, self.upper)


def check_overlay(directory: Path) -> None:
    """Refuse a directory on a file system that cannot hold a guest's changes: another overlay, NFS, ..."""
    probe = directory / "probe"
    try:
        rootfs = Rootfs(probe / "image", probe / "layer", probe / "mount")
        rootfs.prepare()
        rootfs.image.mkdir(exist_ok=True)
        rootfs.script("touch file", what="mounting an overlay")
    except DriverError as error:
        raise DriverError(f"{directory} cannot hold guests, choose one on ext4, xfs or btrfs: {error}") from error
    finally:
        remove_tree(probe)


def extract(archive: Path, target: Path) -> None:
    """Unpack a whole file system."""
    script = f'{_decompressor(archive)} <"$1" | {_TAR} -x -p -C "$2"'
    sandbox(script, archive, target, what=f"unpacking {archive.name}")


def pack_tree(source: Path, target: Path) -> None:
    """Write a directory as one archive, or nothing."""
    with _whole(target) as partial:
        script = f'{_TAR} --sparse -C "$1" -c . | {_compressor(target)} >"$2"'
        sandbox(script, source, partial, what=f"packing {target}")


def copy_layer(source: Path, target: Path) -> None:
    """Copy a layer's changes with owners, attributes, deletions and holes; target appears whole or not at all."""
    partial = target.with_name(target.name + ".partial")
    remove_tree(partial)
    script = 'mkdir -p "$2/work"; cp -a --reflink=auto --sparse=auto "$1/upper" "$2/upper"; mv -T "$2" "$3"'
    try:
        sandbox(script, source, partial, target, what=f"copying {source.name}")
    except DriverError:
        remove_tree(partial)
        raise


def link_tree(source: Path, target: Path) -> None:
    """Make target the same files as source, or copies on another file system; whole or not at all."""
    partial = target.with_name(target.name + ".partial")
    remove_tree(partial)
    script = 'cp -al "$1" "$2" 2>/dev/null || { rm -rf "$2"; cp -a --reflink=auto "$1" "$2"; }; mv -T "$2" "$3"'
    sandbox(script, source, partial, target, what=f"linking {source.name}")


def remove_tree(path: Path) -> None:
    """Remove a directory with all it holds, but nothing mounted in it."""
    if path.exists() or path.is_symlink():
        run(["rm", "-rf", "--one-file-system", "--", str(path)], f"removing {path}")


def tree_size(path: Path) -> int:
    """Bytes a directory takes up; files that vanish meanwhile do not count."""
    script = 'du -sx --block-size=1 "$1" 2>/dev/null || true'
    words = run(["bash", "-c", script, "bash", str(path)], f"measuring {path}").split()
    return int(words[0]) if words else 0


def as_tar(files: dict[str, str], modes: dict[str, int] | None = None) -> bytes:
    """Files for a guest, in memory: unpacked inside it, no link in there can lead out of it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path, content in files.items():
            data = content.encode()
            member = tarfile.TarInfo(path)
            member.size = len(data)
            member.mode = (modes or {}).get(path, 0o644)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """Give a path to write to that becomes target when nothing failed and vanishes otherwise."""
    partial = target.with_name(target.name + ".partial")
    try:
        yield partial
        os.replace(partial, target)
    except OSError as error:
        raise DriverError(f"writing {target} failed: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def _compressor(target: Path) -> str:
    commands = {".zst": "zstd -q -1 -T0", ".gz": "gzip -1", ".tar": "cat"}
    try:
        return commands[target.suffix]
    except KeyError:
        raise DriverError(f"cannot compress {target.name}: end it with one of {', '.join(commands)}") from None


def _decompressor(archive: Path) -> str:
    try:
        with open(archive, "rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise DriverError(f"reading {archive} failed: {error.strerror}") from error
    if magic == b"\x28\xb5\x2f\xfd":
        return "zstd -q -d"
    return "gzip -d" if magic.startswith(b"\x1f\x8b") else "cat"
