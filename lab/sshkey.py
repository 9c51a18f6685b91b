"""The key pair with which an operator reaches the guests of a lab."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519


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
