"""`python -m lab up|down|status|fault`: a Proxmox VE API for demo and tests."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path

from lab import control, daemon
from lab.config import DEFAULT_SUBNETS, ConfigError, LabConfig
from lab.drivers import NAMES, choose
from lab.drivers.base import DriverError
from lab.faults import KINDS, Fault, Faults
from lab.store import Store


def _say(text: str) -> None:
    print(f"lab: {text}", flush=True)


def up(args: argparse.Namespace) -> int:
    directory: Path = args.dir
    pid = control.running_pid(directory)
    if pid is not None:
        running = LabConfig.load(directory)
        if not control.wait_for_answer(running):
            raise control.LabError(f"the daemon (pid {pid}) is still starting: see {directory}/{daemon.LOG_FILE}")
        _say(f"already up: {_address(running)} (state in {directory})")
        return 0
    config, why = _wanted_config(args)
    control.prepare(directory, config)
    _say(f"starting with the driver '{config.driver}' ({why})")
    if args.foreground:
        return daemon.run(directory)
    pid = control.start(directory, _say)
    _say(f"up: pid {pid}, tokens in {directory}/env, SSH key {directory}/ssh/id_ed25519")
    return 0


def _wanted_config(args: argparse.Namespace) -> tuple[LabConfig, str]:
    """What was asked for, over what the lab was started with before, over the defaults."""
    known = control.remembered(args.dir)
    names = [item.name for item in fields(LabConfig)]
    asked = {name: value for name in names if (value := getattr(args, name, None)) is not None}
    if known:
        return replace(known, **asked), "as before"
    driver, why = choose(args.driver or "auto")
    return LabConfig(**{"subnet": DEFAULT_SUBNETS[driver], **asked, "driver": driver}), why


def down(args: argparse.Namespace) -> int:
    directory: Path = args.dir
    if not directory.exists():
        _say(f"nothing to do: {directory} does not exist")
        return 0
    LabConfig.load(directory)
    if control.stop(directory):
        _say("the daemon has ended")
    if args.keep:
        _say(f"guests and state stay in {directory}; `up` goes on with them")
        return 0
    control.remove(directory, _say)
    _say("down: nothing of the lab is left")
    return 0


def status(args: argparse.Namespace) -> int:
    """Exit code 0 when the daemon runs, 3 when it does not."""
    config = LabConfig.load(args.dir)
    pid = control.running_pid(args.dir)
    store = Store(args.dir / "lab.db")
    guests = [{"vmid": g.vmid, "type": g.kind, "name": g.name, "node": g.node} for g in store.guests.values()]
    store.close()
    faults = [asdict(fault) for fault in Faults(args.dir / "faults.json").all()]
    document = {**asdict(config), "pid": pid, "running": pid is not None, "guests": guests, "faults": faults}
    if args.json:
        print(json.dumps(document, indent=2))
    else:
        state = f"up, pid {pid}" if pid else "stopped"
        _say(f"{state}: {_address(config)}, driver {config.driver}, {len(guests)} guests, {len(faults)} faults")
        for guest in sorted(guests, key=lambda g: int(str(g["vmid"]))):
            _say(f"  {guest['vmid']} {guest['type']} {guest['name']} on {guest['node']}")
    return 0 if pid else 3


def _address(config: LabConfig) -> str:
    return f"https://{config.reachable}:{config.port}/api2/json"


def fault(args: argparse.Namespace) -> int:
    LabConfig.load(args.dir)
    faults = Faults(args.dir / "faults.json")
    if args.action == "set":
        names = [item.name for item in fields(Fault) if item.name not in ("kind", "id")]
        made = faults.set(Fault(args.kind, **{name: getattr(args, name) for name in names}))
        _say(f"fault {made.id} set: {KINDS[made.kind]}")
    elif args.action == "clear":
        _say(f"{faults.clear(args.id, args.kind)} faults cleared")
    elif args.action == "crash":
        if not control.stop(args.dir, kill=True):
            raise control.LabError(f"no daemon runs in {args.dir}")
        _say("the daemon was killed (SIGKILL)")
        if not args.stay_down:
            _say(f"up again: pid {control.start(args.dir, _say)}")
    else:
        print(json.dumps([asdict(entry) for entry in faults.all()], indent=2))
    return 0


def unlock(args: argparse.Namespace) -> int:
    """What `pct unlock` and `qm unlock` do on the host; the daemon, which holds the truth, is restarted around it."""
    LabConfig.load(args.dir)
    ran = control.stop(args.dir)
    try:
        store = Store(args.dir / "lab.db")
        guest = store.guests.get(args.vmid)
        lock = guest.config.pop("lock", None) if guest else None
        if lock:
            store.guests.save(args.vmid)
        store.close()
    finally:
        if ran:
            control.start(args.dir, _say)
    if guest is None:
        raise control.LabError(f"there is no guest {args.vmid}: see `python -m lab status --dir {args.dir}`")
    _say(f"{args.vmid} {guest.name}: the lock '{lock}' is gone" if lock else f"{args.vmid} {guest.name} has no lock")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--dir", type=Path, default=Path(".lab"), help="where the lab keeps everything (.lab)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_up(commands.add_parser("up", parents=[common], help="start a lab and wait until it answers"))
    downwards = commands.add_parser("down", parents=[common], help="end it and remove everything it made")
    downwards.add_argument("--keep", action="store_true", help="end only the daemon; guests and state stay")
    downwards.set_defaults(function=down)
    shown = commands.add_parser("status", parents=[common], help="say what runs")
    shown.add_argument("--json", action="store_true", help="for programs")
    shown.set_defaults(function=status)
    unlocked = commands.add_parser(
        "unlock", parents=[common], help="remove a guest's lock, as `pct unlock` on the host"
    )
    unlocked.add_argument("vmid", type=int)
    unlocked.set_defaults(function=unlock)
    _add_fault(commands.add_parser("fault", help="make something go wrong"), common)
    return parser


def _add_up(parser: argparse.ArgumentParser) -> None:
    """No option has a default here: what is not given stays as it was when the lab was last up."""
    default = LabConfig()
    subnets = f"{DEFAULT_SUBNETS['lxc']}; memory: {DEFAULT_SUBNETS['memory']}, loopback"
    parser.add_argument("--driver", choices=NAMES, help="real containers or remembered ones (auto)")
    parser.add_argument("--port", type=int, help=f"of the API ({default.port})")
    parser.add_argument("--bind", help=f"address of the API ({default.bind})")
    parser.add_argument("--subnet", help=f"of the guests ({subnets})")
    parser.add_argument("--bridge", help=f"real bridge behind vmbr0 ({default.bridge})")
    parser.add_argument("--nodes", type=_names, help=f"separated by commas ({','.join(default.nodes)})")
    parser.add_argument("--pve-version", type=int, choices=(8, 9), help=f"({default.pve_version})")
    parser.add_argument(
        "--lag", action=argparse.BooleanOptionalAction, help="/cluster/resources is up to 10 s old (yes)"
    )
    parser.add_argument("--auth-delay", type=float, help=f"seconds before a 401 ({default.auth_delay})")
    parser.add_argument(
        "--test-endpoint", action=argparse.BooleanOptionalAction, help="serve /lab/faults, for tests (no)"
    )
    parser.add_argument("--foreground", action="store_true", help="do not become a daemon")
    parser.set_defaults(function=up)


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _add_fault(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    kinds = "\n".join(f"  {name:14} {text}" for name, text in KINDS.items())
    actions = parser.add_subparsers(required=True, dest="action", metavar="ACTION")
    made = actions.add_parser(
        "set", parents=[common], help="add a fault", epilog=f"kinds:\n{kinds}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    made.add_argument("kind", choices=sorted(KINDS))
    for name in ("path", "method", "node", "storage", "task", "text"):
        made.add_argument(f"--{name}", default="", help="pattern like /nodes/*/lxc" if name == "path" else None)
    for name in ("vmid", "count"):
        made.add_argument(f"--{name}", type=int, default=0, help="how often (0: for ever)" if name == "count" else None)
    made.add_argument("--delay", type=float, default=0.0, help="seconds")
    cleared = actions.add_parser("clear", parents=[common], help="remove all faults, or one, or a kind")
    cleared.add_argument("--id", type=int)
    cleared.add_argument("--kind", choices=sorted(KINDS))
    actions.add_parser("list", parents=[common], help="print the faults as JSON")
    crashed = actions.add_parser("crash", parents=[common], help="kill -9 the daemon, then start it again")
    crashed.add_argument("--stay-down", action="store_true", help="do not start it again")
    parser.set_defaults(function=fault)


def main(arguments: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    try:
        return int(args.function(args))
    except KeyboardInterrupt:
        print("lab: interrupted; a daemon that was starting ends after its present step", file=sys.stderr)
        return 130
    except (control.LabError, ConfigError, DriverError, OSError) as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
