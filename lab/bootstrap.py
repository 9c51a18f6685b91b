"""What the operator of a real node would have set up: users, roles, a pool, storages, tokens."""

from __future__ import annotations

import json
import secrets
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path

from lab.core import Lab
from lab.model import Acl, Pool, Role, Storage, User
from lab.server.auth import hash_password
from lab.server.privileges import VM_CONFIG

USER = "nhi@pve"
POOL = "ai-lab"
BRIDGES = "/sdn/zones/localnetwork"

STORAGES = (
    Storage("local", "dir", ["backup", "iso", "vztmpl"], path="/var/lib/vz"),
    Storage("local-lvm", "lvmthin", ["images", "rootdir"], thinpool="data", vgname="pve"),
    Storage("local-dir", "dir", ["images", "rootdir"], path="/var/lib/local-dir"),  # has no snapshots
)

SHARED = Storage("shared", "nfs", ["backup", "images", "rootdir", "vztmpl"], shared=1)  # of labs with several nodes

_READ = {"VM.Audit", "Datastore.Audit", "Sys.Audit", "Pool.Audit", "SDN.Audit"}
_OPERATE = {"VM.PowerMgmt", "VM.Snapshot", "VM.Snapshot.Rollback", "VM.Backup", "VM.Console"}
_CREATE = {"VM.Allocate", "VM.Clone", "VM.Migrate"} | VM_CONFIG
_STORE = {"Datastore.AllocateSpace", "Datastore.Audit"}

# token: the roles it has, and where
GRANTS: dict[str, tuple[tuple[str, str], ...]] = {
    "reader": (("/", "NHIReader"),),
    "operator": (("/", "NHIOperator"),),
    "creator": (
        ("/", "NHIReader"),
        (f"/pool/{POOL}", "NHICreator"),
        ("/storage", "NHIStorage"),
        (BRIDGES, "NHINetwork"),
    ),
    "demo": (("/", "NHIDemo"),),
}


def roles(pve_version: int) -> dict[str, set[str]]:
    """Least privilege that works: read; read and run; make guests in one pool; all of it for the demo."""
    read = _READ | ({"VM.GuestAgent.Audit"} if pve_version >= 9 else {"VM.Monitor"})
    # Before 9 VM.Monitor is enough to read a file too.
    create = read | _OPERATE | _CREATE | ({"VM.GuestAgent.FileRead"} if pve_version >= 9 else set())
    return {
        "NHIReader": read,
        "NHIOperator": read | _OPERATE,
        "NHICreator": create,
        "NHIStorage": _STORE,
        "NHINetwork": {"SDN.Audit", "SDN.Use"},
        "NHIDemo": create | _STORE | {"Datastore.Allocate", "Pool.Allocate", "SDN.Use"},
    }


@dataclass(frozen=True)
class Credentials:
    """Everything secret about a lab: DIR/credentials.json, readable by its owner only."""

    root_password: str
    user_password: str
    tokens: dict[str, str]
    control_secret: str


def ensure(lab: Lab) -> Credentials:
    """Set the lab up on its first start; later only read what was written then."""
    file = lab.directory / "credentials.json"
    if lab.store.meta("bootstrapped") and file.exists():
        return Credentials(**json.loads(file.read_text(encoding="utf-8")))
    with lab.store.database.transaction():
        credentials = _set_up(lab)
        lab.store.set_meta("bootstrapped", "1")
        write_private(file, json.dumps(asdict(credentials), indent=2) + "\n")
    return credentials


def _set_up(lab: Lab) -> Credentials:
    store, version = lab.store, lab.config.pve_version
    root_password, user_password = secrets.token_urlsafe(16), secrets.token_urlsafe(16)
    for name, privileges in lab.privilege_roles().items():
        store.roles[name] = Role(name, sorted(privileges), special=1)
    for name, privileges in roles(version).items():
        store.roles[name] = Role(name, sorted(privileges))
    store.users["root@pam"] = User("root@pam", password=hash_password(root_password))
    store.users[USER] = User(USER, comment="NHI", password=hash_password(user_password))
    store.pools[POOL] = Pool(POOL, "guests that agents may make and remove")
    for storage in (*STORAGES, SHARED) if len(lab.config.nodes) > 1 else STORAGES:
        store.storages[storage.storage] = storage
    _grant(lab, Acl("/", USER, "user", "NHIDemo"))
    tokens = {}
    for tokenid, grants in GRANTS.items():
        tokens[tokenid] = lab.auth.issue_token(USER, tokenid, privsep=1)
        for path, role in grants:
            _grant(lab, Acl(path, f"{USER}!{tokenid}", "token", role))
    return Credentials(root_password, user_password, tokens, secrets.token_urlsafe(24))


def _grant(lab: Lab, acl: Acl) -> None:
    lab.store.acl[acl.key] = acl


def environment(lab: Lab, credentials: Credentials, port: int) -> dict[str, str]:
    """Names as proxmoxer and community.proxmox read them, the demo token first; then what the playbooks read."""
    host = lab.config.reachable
    found = {
        "PROXMOX_HOST": host,
        "PROXMOX_PORT": str(port),
        "PROXMOX_URL": f"https://{host}:{port}",
        "PROXMOX_USER": USER,
        "PROXMOX_TOKEN_ID": "demo",
        "PROXMOX_TOKEN_SECRET": credentials.tokens["demo"],
        "PROXMOX_VALIDATE_CERTS": "false",
        "NHI_NODE": lab.config.nodes[0],
        "NHI_SUBNET": lab.config.subnet,
        "NHI_SSH_KEY": str((lab.directory / "ssh" / "id_ed25519").resolve()),
        "NHI_LAB_DIR": str(lab.directory.resolve()),
        # Secrets of a lab's services are thrown away with it.
        "NHI_VAULT_DIR": str(lab.directory.resolve() / "vault"),
        "NHI_VAULT_PASSWORD_FILE": str(lab.directory.resolve() / "vault-password"),
    }
    if lab.config.driver == "memory":
        found["NHI_GUEST_HEALTH_PORT"] = "0"  # nobody answers to SSH there
    for tokenid, secret in credentials.tokens.items():
        found[f"PROXMOX_{tokenid.upper()}_TOKEN_ID"] = tokenid
        found[f"PROXMOX_{tokenid.upper()}_TOKEN_SECRET"] = secret
    return found


def write_environment(lab: Lab, credentials: Credentials, port: int) -> None:
    """DIR/env, to be sourced by a shell."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in environment(lab, credentials, port).items()]
    write_private(lab.directory / "env", "\n".join(lines) + "\n")


def write_private(file: Path, text: str) -> None:
    """Replace a file that only its owner may read."""
    temporary = file.with_name(file.name + ".tmp")
    temporary.unlink(missing_ok=True)
    temporary.touch(mode=0o600)
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)
