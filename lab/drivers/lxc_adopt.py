"""What guests take over from this host so that apt, pip and names work inside them as they do outside."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

SUITE = "bookworm"
MIRROR = "http://deb.debian.org/debian"
SECURITY_MIRROR = "http://deb.debian.org/debian-security"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
RESOLV_CONFS = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))

_APT_SETTINGS = re.compile(r"Acquire::(https?::(Proxy|Verify-)|Check-|Retries|ForceIPv4)", re.IGNORECASE)
_PROXIES = ("http_proxy", "https_proxy", "no_proxy")
_PIP_OPTIONS = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "cert")
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True)
class HostSettings:
    """All that is taken over, as values; two hosts with equal settings give equal guests."""

    mirror: str = MIRROR
    security_mirror: str = SECURITY_MIRROR
    apt: tuple[str, ...] = ()  # lines of apt.conf
    proxies: tuple[str, ...] = ()  # lines of /etc/environment
    pip: str = ""
    certificates: tuple[str, ...] = field(default=(), repr=False)  # PEM

    def files(self) -> dict[str, str]:
        """Path inside the guest to content."""
        files = {
            "etc/apt/sources.list": _sources(self.mirror, self.security_mirror),
            "etc/apt/apt.conf.d/90nhi-lab": "".join(f"{line}\n" for line in self.apt),
            "etc/environment": "".join(f"{line}\n" for line in self.proxies),
        }
        if self.pip:
            files["etc/pip.conf"] = self.pip
        for number, pem in enumerate(self.certificates):
            files[f"usr/local/share/ca-certificates/nhi-lab/host-{number:03d}.crt"] = pem + "\n"
        return files


def read_host() -> HostSettings:
    """Read this host's settings."""
    mirror, security = mirrors(_texts(_apt_source_files()))
    return HostSettings(
        mirror=mirror,
        security_mirror=security,
        apt=apt_settings(_apt_dump()),
        proxies=proxies(os.environ),
        pip=pip_settings("".join(_texts([Path("/etc/pip.conf")]))),
        certificates=certificates(_texts([*sorted(Path("/usr/local/share/ca-certificates").rglob("*.crt")), BUNDLE])),
    )


def mirrors(sources: Iterable[str]) -> tuple[str, str]:
    """Find the host's Debian mirrors in its apt sources, one-line or deb822; on another distribution the usual ones."""
    urls = re.findall(r"\bhttps?://[^\s\]#]+", "\n".join(line for text in sources for line in _active(text)))
    clean = [url.rstrip("/") for url in urls]
    main = next((url for url in clean if url.endswith("/debian")), MIRROR)
    security = next((url for url in clean if url.endswith("/debian-security")), SECURITY_MIRROR)
    return main, security


def apt_settings(dump: str) -> tuple[str, ...]:
    """Keep of `apt-config dump` what concerns the way to the mirror, but no proxy that is on this host itself."""
    lines = (line for line in dump.splitlines() if _APT_SETTINGS.match(line))
    return tuple(line for line in lines if not _is_local(line) and '""' not in line)


def proxies(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Lines for /etc/environment."""
    found = {name: environment.get(name) or environment.get(name.upper(), "") for name in _PROXIES}
    if any(_is_local(found[name]) for name in ("http_proxy", "https_proxy")):
        return ()
    return tuple(f"{name}={value}" for name, value in found.items() if value)


def pip_settings(text: str) -> str:
    """Keep of a pip.conf what means the same inside a guest: where packages are, not this host's folders."""
    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read_string(text)
    except configparser.Error:
        return ""
    values = {option: parser.get("global", option, fallback="") for option in _PIP_OPTIONS}
    if values["cert"]:
        values["cert"] = str(BUNDLE)
    lines = [f"{option} = {value}" for option, value in values.items() if value]
    return "\n".join(["[global]", *lines]) + "\n" if lines else ""


def certificates(bundles: Iterable[str]) -> tuple[str, ...]:
    """Every certificate once, in order."""
    return tuple(dict.fromkeys(pem for text in bundles for pem in _CERTIFICATE.findall(text)))


def nameservers(paths: Iterable[Path] = RESOLV_CONFS) -> tuple[str, ...]:
    """The host's name servers as guests can reach them: a stub on the host's loopback is no use to them."""
    for text in _texts(paths):
        words = [line.split() for line in text.splitlines()]
        servers = tuple(line[1] for line in words if len(line) > 1 and line[0] == "nameserver")
        reachable = tuple(server for server in servers if _is_reachable(server))
        if reachable:
            return reachable
    return ()


def _is_reachable(server: str) -> bool:
    try:
        address = ip_address(server)
    except ValueError:
        return False
    return address.version == 4 and not address.is_loopback


def _is_local(text: str) -> bool:
    return bool(re.search(r"//(localhost|127\.|\[::1\])", text))


def _active(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.lstrip().startswith("#")]


def _sources(mirror: str, security: str) -> str:
    lines = ((mirror, SUITE), (mirror, f"{SUITE}-updates"), (security, f"{SUITE}-security"))
    return "".join(f"deb [signed-by={KEYRING}] {url} {suite} main\n" for url, suite in lines)


def _apt_source_files() -> list[Path]:
    parts = Path("/etc/apt/sources.list.d")
    return [Path("/etc/apt/sources.list"), *sorted(parts.glob("*.sources")), *sorted(parts.glob("*.list"))]


def _apt_dump() -> str:
    try:
        return subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False).stdout
    except OSError:  # no apt on this host, so nothing to take over
        return ""


def _texts(paths: Iterable[Path]) -> list[str]:
    texts = []
    for path in paths:
        try:
            texts.append(path.read_text(errors="replace"))
        except FileNotFoundError:
            continue
    return texts
