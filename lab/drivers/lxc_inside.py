"""Writes into a guest what its configuration says: names, interfaces, users, keys. Stopped or running."""

from __future__ import annotations

import subprocess
import uuid

from lab.drivers.base import DriverError, GuestSpec
from lab.drivers.lxc_config import digest, guest_files, identity_files
from lab.drivers.lxc_guest import Guest
from lab.drivers.lxc_host import DIES_WITH_CALLER, run
from lab.drivers.lxc_rootfs import as_tar

# All scripts run inside the guest, where no link can lead out of it; files come as a tar archive on stdin.
# With the time of now (--touch): networkd takes a file of the same inode, size and time for one it knows.
_FILES = "rm -f /etc/systemd/network/50-lab-*.network\ntar -x --touch --no-same-owner -C /\n"
_RENEW = """
rm -f /etc/ssh/ssh_host_*
for type in ed25519 ecdsa; do
    ssh-keygen -q -t $type -N '' -C "root@$2" -f /etc/ssh/ssh_host_${type}_key
done
"""
_IDENTITY = """
if [ "$1" != root ]; then
    if getent group "$1" >/dev/null; then group="--gid $1"; else group=--user-group; fi
    id -u "$1" >/dev/null 2>&1 || useradd --create-home --shell /bin/bash $group "$1"
    printf '%s ALL=(ALL) NOPASSWD:ALL\\n' "$1" >/etc/sudoers.d/90-lab
    chmod 0440 /etc/sudoers.d/90-lab
fi
for name in root "$1"; do
    [ -e /.lab/authorized_keys ] || break
    home=$(getent passwd "$name" | cut -d: -f6)
    install -d -m 0700 -o "$name" -g "$(id -gn "$name")" "$home/.ssh"
    install -m 0600 -o "$name" -g "$(id -gn "$name")" /.lab/authorized_keys "$home/.ssh/authorized_keys"
done
[ ! -e /.lab/password ] || printf '%s:%s\\n' "$1" "$(cat /.lab/password)" | chpasswd
rm -rf /.lab
"""
_LIVE = """
hostname "$2"
networkctl reload
shift 2
for interface; do  # addresses that lxc gave are not networkd's, so it would keep them
    ip address flush dev "$interface" scope global
    networkctl reconfigure "$interface"
done
"""
_ENVIRONMENT = ("env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "sh", "-euc")
_MODES = {".lab/authorized_keys": 0o600, ".lab/password": 0o600, "etc/machine-id": 0o444}


def write_stopped(guest: Guest, spec: GuestSpec, nameservers: tuple[str, ...], renew: bool = False) -> Guest:
    """Bring a stopped guest's files in line; `renew` gives it an identity of its own: machine-id and host keys."""
    files, identity = guest_files(spec, nameservers), identity_files(spec)
    written = digest(files)
    known = digest({**identity, "user": _user(spec)}) if identity else guest.record.identity
    script = _FILES
    if renew:
        files["etc/machine-id"] = uuid.uuid4().hex + "\n"
        script += _RENEW
    if known != guest.record.identity:
        files.update(identity)
        script += _IDENTITY
    if renew or written != guest.record.written or known != guest.record.identity:
        guest.rootfs.script(
            'shift 4; exec chroot . "$@"',
            *(*_ENVIRONMENT, script, "sh", _user(spec), spec.hostname),
            what=f"preparing guest {spec.vmid}",
            stdin=as_tar(files, _MODES),
        )
    return guest.saved(spec=spec, written=written, identity=known)


def write_running(guest: Guest, init: int, spec: GuestSpec, nameservers: tuple[str, ...]) -> Guest:
    """Bring a running guest's names and interfaces in line; users and keys wait for the next start."""
    files = guest_files(spec, nameservers)
    written = digest(files)
    if written != guest.record.written:
        names = [nic.name for nic in spec.nics]
        inside = ("nsenter", "--target", str(init), "--all", "--")
        run(
            (*inside, *_ENVIRONMENT, _FILES + _LIVE, "sh", _user(spec), spec.hostname, *names),
            f"configuring guest {spec.vmid}",
            stdin=as_tar(files, _MODES),
        )
    return guest.saved(spec=spec, written=written)


def read_running(init: int, path: str, limit: int) -> bytes:
    """The beginning of a file as the running guest sees it: no link of its own leads out of it."""
    argv = (*DIES_WITH_CALLER, "nsenter", "--target", str(init), "--all", "--", "head", "-c", str(limit), "--", path)
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip().rpartition(": ")[2]
        raise DriverError(f"Failed to open file '{path}': {reason or 'No such file or directory'}")
    return done.stdout


def _user(spec: GuestSpec) -> str:
    return spec.user if spec.kind == "qemu" else "root"
