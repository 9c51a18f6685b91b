"""The container template: made once with debootstrap, cached as an archive and, unpacked, as an image.

The archive is the same for every host. What a host adds (mirror, certificates, proxies) goes into the
image, so that a changed certificate costs seconds and not a new debootstrap. A lab has the image as hard
links: no time, no space, and its guests live on when somebody empties the cache.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from lab.drivers.base import DriverError, Log
from lab.drivers.lxc_adopt import KEYRING, SUITE, HostSettings
from lab.drivers.lxc_host import sandbox
from lab.drivers.lxc_rootfs import as_tar, extract, link_tree, pack_tree, remove_tree, tree_size

MAX_AGE_SECONDS = 7 * 24 * 3600
PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "openssh-server", "sudo", "netbase"),
    *("iproute2", "iputils-ping", "ca-certificates", "python3", "python3-apt"),
)
# Run in the new root: what a container starts, and what would only slow it down or hold apt's lock.
PREPARE = """
systemctl -q enable systemd-networkd ssh
systemctl -q disable systemd-networkd-wait-online systemd-network-generator e2scrub_reap.service 2>/dev/null || true
systemctl -q mask apt-daily.timer apt-daily-upgrade.timer getty.target console-getty.service systemd-firstboot.service
printf 'LANG=C.UTF-8\\n' >/etc/default/locale
rm -f /etc/ssh/ssh_host_* /etc/hostname
: >/etc/machine-id
"""
# Indexes stay in the template, so that the first `apt-get install` in a guest needs no `update`.
REFRESH = "apt-get -q update; apt-get -q -y upgrade; apt-get clean"
ADOPT = 'chroot "$1" tar -x --no-same-owner -C /; chroot "$1" update-ca-certificates >/dev/null'
NO_SERVICES = "usr/sbin/policy-rc.d"  # while packages are installed from outside


@dataclass(frozen=True)
class Templates:
    """Archives in `cache`, images in `images`."""

    cache: Path
    images: Path

    @property
    def name(self) -> str:
        """What the API lists."""
        return f"debian-12-standard_12_{_architecture()}.tar.zst"

    @property
    def archive(self) -> Path:
        """Where the template is cached; another recipe has another place."""
        recipe = hashlib.sha256(json.dumps([SUITE, PACKAGES, PREPARE, REFRESH]).encode()).hexdigest()
        return self.cache / f"lxc-{recipe[:12]}" / self.name

    def ensure(self, settings: HostSettings, log: Log) -> Path:
        """Make template and image where they are missing; returns the image's root directory."""
        with _locked(self.archive.parent, log):
            self.empty_image().mkdir(parents=True, exist_ok=True)
            if not self._is_fresh():
                self._renew(settings, log)
            cached = self.archive.parent / self._key(settings)
            image = self.images / cached.name
            if not cached.exists():
                self._unpack(cached, settings, log)
            if not image.exists():
                link_tree(cached, image)
        return image / "rootfs"

    def empty_image(self) -> Path:
        """What a restored guest's files lie over."""
        return self.images / "empty" / "rootfs"

    def size(self, image: Path) -> int:
        """Bytes of an image, measured when it was made."""
        try:
            return int((image.parent / "size").read_text())
        except (OSError, ValueError):
            return 0

    def remove_unused(self, used: set[Path]) -> None:
        """Remove images that no guest needs and what a crash left of linking one."""
        for image in self.images.iterdir() if self.images.exists() else ():
            if image / "rootfs" not in used | {self.empty_image()}:
                remove_tree(image)

    def _key(self, settings: HostSettings) -> str:
        text = json.dumps([str(self.archive), self.archive.stat().st_mtime_ns, ADOPT, asdict(settings)])
        return f"image-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def _is_fresh(self) -> bool:
        """Old package indexes name versions that the mirror no longer has."""
        return self.archive.exists() and time.time() - self.archive.stat().st_mtime < MAX_AGE_SECONDS

    def _renew(self, settings: HostSettings, log: Log) -> None:
        try:
            self._build(settings, log)
        except DriverError as error:
            if not self.archive.exists():
                raise
            log(f"warning: the template is older than a week and stays so: {error}")

    def _build(self, settings: HostSettings, log: Log) -> None:
        started = time.monotonic()
        log(f"template {self.name}: debootstrap {SUITE} from {settings.mirror} (once, about a minute)")
        root = self.archive.parent / "build"
        remove_tree(root)
        try:
            bootstrap = ("debootstrap", "--variant=minbase", f"--keyring={KEYRING}", f"--include={','.join(PACKAGES)}")
            sandbox('exec "$@"', *bootstrap, SUITE, root, settings.mirror, what="debootstrap", on_line=_Progress(log))
            log(f"template {self.name}: settings of this host, newest packages")
            _adopt(root, settings)
            _chroot(root, f"printf 'exit 101' >/{NO_SERVICES}; chmod 755 /{NO_SERVICES}", "holding services back")
            _chroot(root, REFRESH, "updating packages")
            _chroot(root, f"rm /{NO_SERVICES}\n{PREPARE}", "preparing services")
            log(f"template {self.name}: packing")
            pack_tree(root, self.archive)
        finally:
            remove_tree(root)
        size = self.archive.stat().st_size // 2**20
        log(f"template {self.name}: {size} MiB in {time.monotonic() - started:.0f} s, cached in {self.archive.parent}")

    def _unpack(self, image: Path, settings: HostSettings, log: Log) -> None:
        log(f"template {self.name}: unpacking with the settings of this host")
        for other in image.parent.glob("image-*"):  # for settings that this host no longer has, or half-made
            remove_tree(other)
        partial = image.with_name(image.name + ".partial")
        (partial / "rootfs").mkdir(parents=True)
        extract(self.archive, partial / "rootfs")
        _adopt(partial / "rootfs", settings)
        (partial / "size").write_text(str(tree_size(partial / "rootfs")))
        partial.rename(image)


class _Progress:
    """Turns debootstrap's line per package into a line per step and per twenty-five packages."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.counts: dict[str, int] = {}

    def __call__(self, line: str) -> None:
        if not line.startswith("I: "):
            return
        verb = line.split()[1].rstrip(".")
        self.counts[verb] = self.counts.get(verb, 0) + 1
        if verb not in ("Retrieving", "Validating", "Extracting", "Unpacking", "Configuring"):
            self.log(f"debootstrap: {line[3:]}")
        elif self.counts[verb] % 25 == 1:
            self.log(f"debootstrap: {verb.lower()} packages ({self.counts[verb]})")


def _adopt(root: Path, settings: HostSettings) -> None:
    """Write the host's settings into a root directory that does not run."""
    sandbox(ADOPT, root, stdin=as_tar(settings.files()), what="taking over the host's settings")


def _chroot(root: Path, script: str, what: str) -> None:
    """Run a script in a root directory that does not run, with the host's names for the network."""
    path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"
    environment = ("env", "-i", path, "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive")
    prepare = (
        'mount --bind /dev "$1/dev"; mount -t proc proc "$1/proc"; cp --remove-destination /etc/resolv.conf "$1/etc/"\n'
    )
    run_inside = 'root=$1; script=$2; shift 2; exec chroot "$root" "$@" sh -euc "$script"'
    sandbox(prepare + run_inside, root, script, *environment, what=what)


def _architecture() -> str:
    """Debian's name for this machine."""
    machine = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


@contextmanager
def _locked(cache: Path, log: Log) -> Iterator[None]:
    """One lab at a time makes the template; the others wait for it."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        cache.chmod(0o700)  # images hold setuid programs that are not this host's
        with open(cache / "lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log("waiting for another lab that makes the template")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise DriverError(f"making the template in {cache} failed: {error.strerror}") from error
