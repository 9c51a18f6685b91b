"""proxmoxer, unchanged, with a password and with a token."""

from __future__ import annotations

from typing import Any

import proxmoxer
import pytest
from proxmoxer.tools import Tasks

from lab.tests.contract.conftest import Clients

pytestmark = pytest.mark.slow

NODE = "pve"


@pytest.fixture(scope="module", params=["password", "token"])
def api(request: pytest.FixtureRequest, clients: Clients) -> Any:
    exported = clients.exported
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("REQUESTS_CA_BUNDLE", raising=False)
        common = {"host": "127.0.0.1", "port": clients.port, "verify_ssl": False}
        if request.param == "password":
            return proxmoxer.ProxmoxAPI(**common, user="root@pam", password=clients.root_password)
        return proxmoxer.ProxmoxAPI(
            **common,
            user=exported["PROXMOX_USER"],
            token_name=exported["PROXMOX_TOKEN_ID"],
            token_value=exported["PROXMOX_TOKEN_SECRET"],
        )


def finish(api: Any, upid: str) -> None:
    status = Tasks.blocking_status(api, upid, timeout=20, polling_interval=0.05)
    assert status is not None
    assert status["exitstatus"] == "OK", Tasks.decode_log(api.nodes(NODE).tasks(upid).log.get())


def wanted(api: Any) -> dict[str, Any]:
    template = api.nodes(NODE).storage("local").content.get(content="vztmpl")[0]["volid"]
    storage = api.nodes(NODE).storage.get(content="rootdir")[0]["storage"]
    return {"vmid": int(api.cluster.nextid.get()), "ostemplate": template, "storage": storage, "memory": 64}


def test_reads(api: Any) -> None:
    assert api.version.get()["version"][0] in "89"
    assert [node["node"] for node in api.nodes.get()] == [NODE]
    assert {row["type"] for row in api.cluster.resources.get()} >= {"node", "storage"}


def test_life_of_a_container(api: Any) -> None:
    containers = api.nodes(NODE).lxc
    options = wanted(api)
    vmid = options["vmid"]
    finish(api, containers.create(**options, hostname="web", tags="a;b", **{"ssh-public-keys": ""}))
    container = containers(vmid)
    finish(api, container.status.start.post())
    assert container.status.current.get()["status"] == "running"
    container.config.put(memory=128, delete="tags")
    assert container.config.get()["memory"] == 128
    finish(api, container.snapshot.post(snapname="before"))
    assert [s["name"] for s in container.snapshot.get()] == ["before", "current"]
    finish(api, container.snapshot("before").rollback.post())
    clone = int(api.cluster.nextid.get())
    finish(api, container.clone.post(newid=clone, full=1, hostname="copy"))
    finish(api, containers(clone).delete())
    finish(api, container.delete(force=1, purge=1))
    assert vmid not in [row["vmid"] for row in containers.get()]


def test_errors_become_exceptions(api: Any) -> None:
    with pytest.raises(proxmoxer.ResourceException) as missing:
        api.nodes(NODE).lxc(987654321).config.get()
    assert missing.value.status_code == 500
    assert "does not exist" in str(missing.value)
    with pytest.raises(proxmoxer.ResourceException) as invalid:
        api.nodes(NODE).lxc.create(vmid=99)
    assert set(invalid.value.errors) == {"vmid", "ostemplate"}


def test_wrong_password(clients: Clients) -> None:
    with pytest.raises(proxmoxer.AuthenticationError):
        proxmoxer.ProxmoxAPI("127.0.0.1", port=clients.port, verify_ssl=False, user="root@pam", password="wrong")
