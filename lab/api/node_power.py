"""A node that is switched off or restarted: its guests go down with it."""

from __future__ import annotations

from lab.api.guest_status import forget_boot, launch
from lab.guests.kinds import KINDS
from lab.server.call import Call
from lab.server.permissions import ROOT
from lab.server.router import route
from lab.tasks import Task


@route("POST", "/nodes/{node}/status")
async def command(call: Call) -> None:
    """The node is back at once. Restarted, it starts what is to start with it, as the node's own task."""
    lab, node, restarts = call.lab, call.node, call.params["command"] == "reboot"

    async def work(task: Task) -> None:
        for guest in [g for g in lab.store.guests.values() if g.node == node and not g.is_template]:
            async with lab.config_lock(KINDS[guest.kind], guest.vmid):
                if (await lab.usage(guest.vmid)).running:
                    await task.drive(lab.driver.stop, guest.vmid, task.log)
                    forget_boot(lab, guest.vmid)
                if restarts and str(guest.config.get("onboot", 0)) == "1":
                    await launch(lab, task, guest)

    lab.tasks.start(node, "startall" if restarts else "stopall", "", ROOT, work)
