"""The key pair with which an operator reaches the guests of a lab."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519


def ensure(directory: Path) -> Path:
    """The private key file; `.pub` lies beside it. Made once, then kept."""
    private_file = directory / "id_ed25519"
    public_file = directory / "id_ed25519.pub"
    if private_file.exists() and public_file.exists():
        return private_file
    directory.mkdir(mode=0o700, exist_ok=True)
    key = ed25519.Ed25519PrivateKey.generate()
    private_file.touch(mode=0o600)
    private_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    public_file.write_bytes(public + b" nhi-lab\n")
    return private_file


def fingerprint(public: str) -> str:
    """What `ssh-keygen -l` says of a line with a public key: `SHA256:...`."""
    digest = hashlib.sha256(base64.b64decode(public.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def new_host_keys(hostname: str) -> dict[str, str]:
    """The public halves of fresh host keys, by file name: all that a guest which is only remembered can show."""
    keys: dict[str, ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey] = {
        "ssh_host_ed25519_key": ed25519.Ed25519PrivateKey.generate().public_key(),
        "ssh_host_ecdsa_key": ec.generate_private_key(ec.SECP256R1()).public_key(),
    }
    openssh = (serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return {name: f"{key.public_bytes(*openssh).decode()} root@{hostname}" for name, key in keys.items()}
