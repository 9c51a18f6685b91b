# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How Proxmox VE refuses, over a real HTTPS server: what each text means and what the operator is told to do.

The table that says which fact is tested where is in README.md beside this file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from ansible_collections.nhi.core.plugins.module_utils.errors import (
    AlreadyExistsError,
    AuthenticationError,
    ClusterNotReadyError,
    ConfigChangedError,
    GuestLockedError,
    NotFoundError,
    ParameterError,
    PermissionDeniedError,
    PowerStateError,
    ProxmoxError,
    UnreachableError,
)
from ansible_collections.nhi.core.plugins.module_utils.proxmox_client import Endpoint, ProxmoxClient
from ansible_collections.nhi.core.tests.unit.plugins.api_server import ApiServer, Reply, api_server, refusal

DENIED = "Permission check failed"
LXC = "/nodes/pve/lxc"


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with api_server() as running:
        yield running


@pytest.fixture
def client(server: ApiServer) -> Iterator[ProxmoxClient]:
    found = Endpoint("127.0.0.1", "root@pam", "nhi", "s", server.port, validate_certs=False)
    with ProxmoxClient(found) as connected:
        yield connected


def asked(client: ProxmoxClient, method: str = "get", path: str = LXC) -> ProxmoxError:
    with pytest.raises(ProxmoxError) as caught:
        getattr(client, method)(path)
    assert "\n" not in str(caught.value)
    return caught.value


def old(reason: str, errors: dict[str, str] | None = None, status: int = 500) -> Reply:
    """An error as releases before 8.3 tell it: no message in the body, the text is in the status line."""
    body = json.dumps({"data": None, **({"errors": errors} if errors else {})}).encode()
    return Reply(status=status, reason=reason, body=body, close=True)


TEXTS: list[tuple[str, type[ProxmoxError], str]] = [
    # taken
    ("CT 105 already exists on node 'pve'", AlreadyExistsError, "another VMID"),
    ("VM 200 already exists on node 'pve'", AlreadyExistsError, "another VMID"),
    ("unable to create CT 190 - CT 190 already exists on node 'pve'", AlreadyExistsError, "another VMID"),
    ("unable to create VM 101: config file already exists", AlreadyExistsError, "another VMID"),
    (
        "close (rename) atomic file '/etc/pve/nodes/x/qemu-server/101.conf' failed: File exists",
        AlreadyExistsError,
        "another VMID",
    ),
    # not there
    ("Configuration file 'nodes/pve/lxc/999.conf' does not exist", NotFoundError, "fresh scan"),
    ("storage 'nosuch' does not exist", NotFoundError, "fresh scan"),
    ("snapshot 'nosuch' does not exist", NotFoundError, "fresh scan"),
    ("volume 'local:vztmpl/x.tar.zst' does not exist", NotFoundError, "fresh scan"),
    ("no such cluster node 'pve9'", NotFoundError, "fresh scan"),
    # held by another operation
    ("CT is locked (backup)", GuestLockedError, "wait"),
    ("VM is locked (snapshot-delete)", GuestLockedError, "wait"),
    ("can't lock file '/run/lock/lxc/pve-config-100.lock' - got timeout", GuestLockedError, "wait"),
    ("can't lock file '/var/lock/qemu-server/lock-100.conf' - got timeout", GuestLockedError, "wait"),
    ("cfs-lock 'storage-local' error: got lock request timeout", GuestLockedError, "wait"),
    ("cfs-lock 'file-user_cfg' error: no quorum!", ClusterNotReadyError, "pvecm status"),
    ("cluster not ready - no quorum?", ClusterNotReadyError, "pvecm status"),
    # changed meanwhile
    (
        "detected modified configuration - file changed by other user? Try again.",
        ConfigChangedError,
        "nothing was written: run again",
    ),
    # power
    ("CT 105 already running", PowerStateError, "as it should"),
    ("VM 105 already running", PowerStateError, "as it should"),
    ("CT 105 not running", PowerStateError, "start it first"),
    ("VM 105 not running", PowerStateError, "start it first"),
    ("VM 105 is not running", PowerStateError, "start it first"),
    ("unable to destroy CT 100 - container is running", PowerStateError, "stop it first"),
    ("VM 200 is running - destroy failed", PowerStateError, "stop it first"),
    ("you can't convert a CT to template if the CT is running", PowerStateError, "stop it first"),
    ("Cannot do full clones on a running container without snapshots", PowerStateError, "stop it first"),
    # guards of the node
    ("can't remove CT 122 - protection mode enabled", ProxmoxError, "protection: false"),
    ("can't remove VM 122 - protection mode enabled", ProxmoxError, "protection: false"),
    ("unable to remove CT 105 - used in HA resources and purge parameter not set.", ProxmoxError, "high availability"),
    ("There is a replication job '105-0' for guest '105' - Please remove that first.", ProxmoxError, "replication"),
    # agents
    ("QEMU guest agent is not running", ProxmoxError, "qemu-guest-agent"),
    ("No QEMU guest agent configured", ProxmoxError, "agent: 1"),
    ("VM 105 qmp command 'guest-ping' failed - got timeout", ProxmoxError, "qemu-guest-agent"),
    ("Agent error: Failed to open file '/etc/x': No such file or directory", ProxmoxError, "qemu-guest-agent"),
    # for root@pam alone, said without a 403
    ("only root can set 'hookscript' config", PermissionDeniedError, "no API token may do that"),
    # a node that the cluster can not find is silent, and none of its guests is gone
    (
        "hostname lookup 'pve2' failed - failed to get address info for: pve2: Name or service not known",
        UnreachableError,
        "online",
    ),
    # a time-out that is no lock is not called one
    ("command '/sbin/lvs' failed: got timeout", ProxmoxError, "journal of that node"),
]


@pytest.mark.parametrize(("text", "kind", "advice"), TEXTS, ids=[text[:45] for text, *_rest in TEXTS])
@pytest.mark.parametrize("told", [lambda text: refusal(500, text), old], ids=["message", "reason phrase only"])
def test_a_500_is_told_apart_by_its_text(
    server: ApiServer, client: ProxmoxClient, told: object, text: str, kind: type[ProxmoxError], advice: str
) -> None:
    server.answer = lambda _request: told(text)  # type: ignore[operator]
    error = asked(client, "post")
    assert error.__class__ is kind
    assert (error.status, error.reason) == (500, text)
    assert text in str(error)
    assert advice in str(error)


def test_errors_of_parameters_come_before_the_message_and_the_message_before_the_reason_phrase(
    server: ApiServer, client: ProxmoxClient
) -> None:
    document = {
        "errors": {"vmid": "VM 218 already exists"},
        "message": "Parameter verification failed.\n",
        "data": None,
    }
    server.answer = lambda _request: Reply(
        status=400, reason="Something else", body=json.dumps(document).encode(), close=True
    )
    error = asked(client, "post")
    assert isinstance(error, AlreadyExistsError)
    assert error.reason == "Parameter verification failed."
    document.pop("errors")
    assert "Parameter verification failed." in str(asked(client, "post"))


def test_an_old_400_without_message_names_its_parameters(server: ApiServer, client: ProxmoxClient) -> None:
    errors = {"memory": "type check ('integer') failed - got 'abc'", "rootfs": "invalid format - format error\n"}
    server.answer = lambda _request: old("Parameter verification failed.", errors, 400)
    error = asked(client, "post")
    assert isinstance(error, ParameterError)
    assert "memory: type check" in str(error)
    assert "rootfs: invalid format - format error" in str(error)


def test_a_reason_phrase_beyond_ascii_is_read_as_it_was_meant(server: ApiServer, client: ProxmoxClient) -> None:
    text = "storage 'müll' does not exist"
    server.answer = lambda _request: old(text.encode().decode("latin-1"))
    assert asked(client).reason == text


def test_an_error_from_before_the_api_is_plain_text(server: ApiServer, client: ProxmoxClient) -> None:
    text = b"proxy detected vanished client connection"
    server.answer = lambda _request: Reply(status=500, reason="x", body=text, content_type="text/plain", close=True)
    assert text.decode() in str(asked(client))


def test_a_400_without_a_body_still_says_something(server: ApiServer, client: ProxmoxClient) -> None:
    server.answer = lambda _request: Reply(status=400, reason="Bad request", body=b"", close=True)
    assert "Bad request" in str(asked(client, "post"))


@pytest.mark.parametrize("reason", ["No ticket", "Authentication failed!"])
def test_every_401_is_about_the_token_and_is_asked_once(server: ApiServer, client: ProxmoxClient, reason: str) -> None:
    server.answer = lambda _request: Reply(status=401, reason=reason, body=b"", close=True)
    error = asked(client)
    assert isinstance(error, AuthenticationError)
    assert f"root@pam!nhi ({reason})" in str(error)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("detail", "privilege", "path"),
    [
        ("/vms/105, VM.Allocate", "VM.Allocate", "/vms/105"),
        ("/storage/local, Datastore.Audit|Datastore.AllocateSpace", "Datastore.Audit or Datastore.AllocateSpace", None),
        ("/sdn/zones/localnetwork/vmbr0/30, SDN.Use", "SDN.Use", "/sdn/zones/localnetwork/vmbr0/30"),
        ("/vms/200, VM.Monitor", "VM.Monitor", "/vms/200"),
        ("/vms/200, VM.GuestAgent.Audit|VM.GuestAgent.Unrestricted", "VM.GuestAgent.Audit or", "/vms/200"),
        ("/, Sys.Modify", "Sys.Modify", "/"),
    ],
)
def test_a_403_names_privilege_and_path(
    server: ApiServer, client: ProxmoxClient, detail: str, privilege: str, path: str | None
) -> None:
    server.answer = lambda _request: refusal(403, f"{DENIED} ({detail})")
    error = asked(client, "post")
    assert isinstance(error, PermissionDeniedError)
    assert f"lacks the privilege {privilege}" in str(error)
    assert path is None or error.acl_path == path


@pytest.mark.parametrize(
    "detail",
    [
        "changing feature flags (except nesting) is only allowed for root@pam",
        "changing feature flags for privileged container is only allowed for root@pam",
        "mount point type bind is only allowed for root@pam",
        "configuring device passthrough is only allowed for root@pam",
        "user != root@pam",
    ],
)
@pytest.mark.parametrize("told", [refusal, lambda status, text: old(text, status=status)])
def test_what_is_for_root_alone_is_not_asked_for_as_a_role(
    server: ApiServer, client: ProxmoxClient, told: object, detail: str
) -> None:
    server.answer = lambda _request: told(403, f"{DENIED} ({detail})")  # type: ignore[operator]
    error = asked(client, "post")
    assert isinstance(error, PermissionDeniedError)
    assert "no API token may do that, not even one of root@pam" in str(error)
    assert "give the user" not in str(error)


def test_skiplock_is_for_root_alone_although_it_is_a_parameter_error(server: ApiServer, client: ProxmoxClient) -> None:
    errors = {"skiplock": "Only root may use this option."}
    server.answer = lambda _request: refusal(400, "Parameter verification failed.", errors)
    error = asked(client, "post")
    assert isinstance(error, PermissionDeniedError)
    assert "no API token may do that" in str(error)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        (DENIED, "VM.Allocate on the new guest's path below /vms, or on its pool"),
        (f"{DENIED} (pool 'nosuch' does not exist)", "choose a pool that exists"),
        (
            f"{DENIED} (URI '/api2/json/access/password' not available with API token, need proper ticket.)",
            "a login with a password",
        ),
    ],
)
def test_a_403_without_a_privilege_still_says_what_to_do(
    server: ApiServer, client: ProxmoxClient, text: str, advice: str
) -> None:
    server.answer = lambda _request: refusal(403, text)
    assert advice in str(asked(client, "post"))


def test_an_unknown_path_is_a_501_and_no_missing_guest(server: ApiServer, client: ProxmoxClient) -> None:
    server.answer = lambda _request: refusal(501, "Method 'GET /nosuch' not implemented")
    error = asked(client)
    assert error.__class__ is ProxmoxError
    assert "Proxmox VE version" in str(error)


@pytest.mark.parametrize("status", [595, 596, 599])
@pytest.mark.parametrize("method", ["post", "put", "delete"])
def test_a_write_that_a_node_did_not_answer_may_have_been_done(
    server: ApiServer, client: ProxmoxClient, status: int, method: str
) -> None:
    server.answer = lambda _request: Reply(status=status, reason="Connection timed out", body=b"", close=True)
    error = asked(client, method)
    assert isinstance(error, UnreachableError)
    assert "it may have been done" in str(error)
    assert len(server.requests) == 1
    assert "try again" in str(asked(client))
