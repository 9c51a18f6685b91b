# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The client against a real HTTPS server: what is sent, what is kept alive, what is retried, how failures read."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.errors import (
    AlreadyExistsError,
    AuthenticationError,
    GuestLockedError,
    NotFoundError,
    ParameterError,
    PermissionDeniedError,
    ProxmoxError,
    UnreachableError,
)
from ansible_collections.nhi.core.plugins.module_utils.proxmox_client import (
    Endpoint,
    ProxmoxClient,
    api_path,
    endpoint_from_params,
)
from ansible_collections.nhi.core.tests.unit.plugins.api_server import ApiServer, Reply, Request, api_server, refusal

SECRET = "5ecre7-5ecre7-5ecre7"


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with api_server() as running:
        yield running


@pytest.fixture
def client(server: ApiServer) -> Iterator[ProxmoxClient]:
    with ProxmoxClient(endpoint(server.port, validate_certs=False)) as connected:
        yield connected


def endpoint(port: int, **more: Any) -> Endpoint:
    return Endpoint(host="127.0.0.1", port=port, user="nhi@pve", token_id="reader", token_secret=SECRET, **more)


def failure_of(client: ProxmoxClient, path: str = "/version", method: str = "get") -> ProxmoxError:
    with pytest.raises(ProxmoxError) as caught:
        getattr(client, method)(path)
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)
    return caught.value


# What is sent


def test_get_sends_the_token_and_puts_parameters_in_the_query(server: ApiServer, client: ProxmoxClient) -> None:
    server.answer = lambda _request: Reply([{"vmid": 100}])
    assert client.get("/cluster/resources", {"type": "vm", "full": True, "unset": None}) == [{"vmid": 100}]
    request = server.requests[0]
    assert request.headers["Authorization"] == f"PVEAPIToken=nhi@pve!reader={SECRET}"
    assert request.query == {"type": ["vm"], "full": ["1"]}


@pytest.mark.parametrize("method", ["post", "put"])
def test_writes_send_a_form(server: ApiServer, client: ProxmoxClient, method: str) -> None:
    server.answer = lambda _request: Reply("UPID:x")
    data = {"vmid": 105, "start": False, "net0": "name=eth0,bridge=vmbr0", "delete": ["a", "b"], "pool": None}
    assert getattr(client, method)(("nodes", "pve", "lxc"), data) == "UPID:x"
    request = server.requests[0]
    assert request.form == {"vmid": ["105"], "start": ["0"], "net0": ["name=eth0,bridge=vmbr0"], "delete": ["a", "b"]}
    assert request.query == {}


def test_delete_has_no_body(server: ApiServer, client: ProxmoxClient) -> None:
    client.delete(("nodes", "pve", "lxc", 105), {"purge": True})
    request = server.requests[0]
    assert (request.method, request.query) == ("DELETE", {"purge": ["1"]})
    assert request.headers.get("Content-Length", "0") == "0"


def test_path_parts_are_quoted_and_can_not_climb() -> None:
    upid = "UPID:pve:0000A:00B:65000000:vzstart:105:nhi@pve!reader:"
    assert api_path(("nodes", "pve", "tasks", upid, "status")) == f"/nodes/pve/tasks/{upid}/status"
    assert api_path(("pools", "a/b?c")) == "/pools/a%2Fb%3Fc"
    for part in ("", ".", ".."):
        with pytest.raises(ParameterError):
            api_path(("nodes", part, "lxc"))


def test_every_request_is_counted(client: ProxmoxClient) -> None:
    for _number in range(3):
        client.get("/version")
    assert client.calls == 3


# Connections


def test_a_connection_is_used_again(server: ApiServer, client: ProxmoxClient) -> None:
    for _number in range(5):
        client.get("/version")
    assert len({request.connection for request in server.requests}) == 1


def test_threads_do_not_share_a_connection_at_the_same_time(server: ApiServer, client: ProxmoxClient) -> None:
    server.answer = lambda request: Reply(request.path, delay=0.05)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: client.get(f"/nodes/{number}"), range(32)))
    assert found == [f"/nodes/{number}" for number in range(32)]
    assert 1 < len({request.connection for request in server.requests}) <= 8
    assert client.calls == 32


def test_a_get_on_a_connection_that_died_meanwhile_is_sent_again(server: ApiServer, client: ProxmoxClient) -> None:
    client.get("/version")
    replies = iter([Reply(drop=True), Reply("second")])
    server.answer = lambda _request: next(replies)
    assert client.get("/version") == "second"
    assert client.calls == 3


def test_a_get_that_a_new_connection_loses_is_not_sent_again(server: ApiServer, client: ProxmoxClient) -> None:
    server.answer = lambda _request: Reply(drop=True)
    error = failure_of(client)
    assert isinstance(error, UnreachableError)
    assert len(server.requests) == 1


@pytest.mark.parametrize("method", ["post", "put", "delete"])
def test_a_write_is_never_sent_twice(server: ApiServer, client: ProxmoxClient, method: str) -> None:
    client.get("/version")
    server.answer = lambda _request: Reply(drop=True)
    error = failure_of(client, "/nodes/pve/lxc", method)
    assert isinstance(error, UnreachableError)
    assert "scan before repeating" in str(error)
    assert [request.method for request in server.requests] == ["GET", method.upper()]


def test_an_error_answer_closes_its_connection_and_the_next_call_works(
    server: ApiServer, client: ProxmoxClient
) -> None:
    replies = iter([refusal(500, "CT is locked (backup)"), Reply("fine")])
    server.answer = lambda _request: next(replies)
    failure_of(client)
    assert client.get("/version") == "fine"
    assert len({request.connection for request in server.requests}) == 2


# TLS


def test_an_unknown_certificate_is_refused_with_both_ways_out(server: ApiServer) -> None:
    error = failure_of(ProxmoxClient(endpoint(server.port)))
    assert isinstance(error, UnreachableError)
    assert "ca_path" in str(error)
    assert "validate_certs" in str(error)
    assert server.requests == []


def test_the_given_certificate_authority_is_trusted(server: ApiServer) -> None:
    with ProxmoxClient(endpoint(server.port, ca_path=str(server.certificate))) as client:
        assert client.get("/version") is None


def test_validate_certs_false_is_not_overridden_by_the_environment(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    empty = tmp_path / "empty.pem"
    empty.touch()
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, str(empty))
    with ProxmoxClient(endpoint(server.port, validate_certs=False)) as client:
        assert client.get("/version") is None


def test_a_ca_path_that_can_not_be_read_is_an_option_error(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="ca_path"):
        ProxmoxClient(endpoint(8006, ca_path=str(tmp_path / "missing.pem")))


# Outages


def test_a_closed_port_says_where_nothing_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    error = failure_of(ProxmoxClient(endpoint(port, validate_certs=False)))
    assert isinstance(error, UnreachableError)
    assert f"127.0.0.1:{port}" in str(error)
    assert "api_port" in str(error)


def test_a_slow_answer_ends_at_the_timeout(server: ApiServer) -> None:
    server.answer = lambda _request: Reply(delay=2)
    started = time.monotonic()
    error = failure_of(ProxmoxClient(endpoint(server.port, validate_certs=False, timeout=0.3)))
    assert isinstance(error, UnreachableError)
    assert "timeout" in str(error)
    assert time.monotonic() - started < 1.5


def test_a_port_that_does_not_speak_tls_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:

        def greet() -> None:
            connection, _address = plain.accept()
            with connection:
                connection.sendall(b"220 mail.example.net ESMTP\r\n")
                connection.recv(1024)

        threading.Thread(target=greet, daemon=True).start()
        error = failure_of(ProxmoxClient(endpoint(plain.getsockname()[1], validate_certs=False)))
    assert isinstance(error, UnreachableError)
    assert "api_port" in str(error)


@pytest.mark.parametrize("status", [200, 404, 500, 502])
def test_html_is_not_the_api(server: ApiServer, client: ProxmoxClient, status: int) -> None:
    page = Reply(status=status, reason="Whatever", body=b"<html>Log in</html>", content_type="text/html", close=True)
    server.answer = lambda _request: page
    error = failure_of(client)
    assert isinstance(error, UnreachableError)
    assert "not the Proxmox VE API" in str(error)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"{broken"])
def test_an_answer_without_the_envelope_is_not_the_api(server: ApiServer, client: ProxmoxClient, body: bytes) -> None:
    server.answer = lambda _request: Reply(body=body)
    assert isinstance(failure_of(client), UnreachableError)


@pytest.mark.parametrize("status", [595, 596, 599])
def test_pseudo_codes_of_the_proxy_mean_unreachable(server: ApiServer, client: ProxmoxClient, status: int) -> None:
    server.answer = lambda _request: Reply(status=status, reason="Connection timed out", body=b"", close=True)
    error = failure_of(client, "/nodes/pve2/status")
    assert isinstance(error, UnreachableError)
    assert error.status == status
    assert "/nodes/pve2/status" in str(error)


# What Proxmox VE refuses


def test_a_wrong_token_names_the_token_and_never_its_secret(server: ApiServer, client: ProxmoxClient) -> None:
    server.answer = lambda _request: Reply(status=401, reason="Authentication failed!", body=b"", close=True)
    error = failure_of(client)
    assert isinstance(error, AuthenticationError)
    assert "nhi@pve!reader" in str(error)
    assert "127.0.0.1" in str(error)


def test_a_missing_privilege_is_named_with_its_path(server: ApiServer, client: ProxmoxClient) -> None:
    server.answer = lambda _request: refusal(403, "Permission check failed (/vms/105, VM.GuestAgent.Audit|VM.Monitor)")
    error = failure_of(client)
    assert isinstance(error, PermissionDeniedError)
    assert (error.privilege, error.acl_path) == ("VM.GuestAgent.Audit|VM.Monitor", "/vms/105")
    assert "VM.GuestAgent.Audit or VM.Monitor on /vms/105" in str(error)


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (500, "CT 105 already exists on node 'pve'", AlreadyExistsError),
        (500, "unable to create CT 190 - CT 190 already exists on node 'pve'", AlreadyExistsError),
        (500, "close (rename) atomic file '/etc/pve/nodes/x/101.conf' failed: File exists", AlreadyExistsError),
        (500, "unable to create VM 101: config file already exists", AlreadyExistsError),
        (500, "Configuration file 'nodes/pve/lxc/999.conf' does not exist", NotFoundError),
        (500, "storage 'nosuch' does not exist", NotFoundError),
        (500, "hostname lookup 'nosuch' failed - failed to get address info for: nosuch", UnreachableError),
        (500, "CT is locked (backup)", GuestLockedError),
        (500, "VM is locked (snapshot-delete)", GuestLockedError),
        (500, "can't lock file '/run/lock/lxc/pve-config-100.lock' - got timeout", GuestLockedError),
        (500, "cfs-lock 'storage-local' error: got lock request timeout", GuestLockedError),
        (500, "QEMU guest agent is not running", ProxmoxError),
        (501, "Method 'GET /nosuch' not implemented", ProxmoxError),
    ],
)  # fmt: skip
def test_texts_of_refusals_decide_the_error(
    server: ApiServer, client: ProxmoxClient, status: int, text: str, kind: type[ProxmoxError]
) -> None:
    server.answer = lambda _request: refusal(status, text)
    error = failure_of(client)
    assert error.__class__ is kind
    assert error.reason == text
    assert error.status == status


def test_parameter_errors_are_told_one_by_one(server: ApiServer, client: ProxmoxClient) -> None:
    errors = {"memory": "value must have a minimum value of 16", "net0": "invalid format - format error\n"}
    server.answer = lambda _request: refusal(400, "Parameter verification failed.", errors)
    error = failure_of(client)
    assert isinstance(error, ParameterError)
    assert error.errors == {"memory": "value must have a minimum value of 16", "net0": "invalid format - format error"}
    assert "memory: value must have a minimum value of 16" in str(error)


def test_a_taken_vmid_in_a_parameter_error_is_told_from_other_parameters(
    server: ApiServer, client: ProxmoxClient
) -> None:
    server.answer = lambda _request: refusal(400, "Parameter verification failed.", {"vmid": "VM 100 already exists"})
    assert isinstance(failure_of(client), AlreadyExistsError)


def test_an_old_server_that_tells_only_in_the_reason_phrase_is_understood(
    server: ApiServer, client: ProxmoxClient
) -> None:
    server.answer = lambda _request: Reply(status=500, reason="CT 105 already exists on node 'pve'", close=True)
    assert isinstance(failure_of(client), AlreadyExistsError)


# Options


PARAMS = {"api_host": "pve", "api_user": "nhi@pve", "api_token_id": "reader", "api_token_secret": SECRET}


def test_an_endpoint_keeps_its_secret_out_of_its_text() -> None:
    made = endpoint_from_params({**PARAMS, "api_port": None, "validate_certs": True})
    assert (made.port, made.identity, made.server) == (8006, "nhi@pve!reader", "pve:8006")
    assert SECRET not in repr(made)


def test_a_full_token_name_is_accepted_as_token_id() -> None:
    assert endpoint_from_params({**PARAMS, "api_token_id": "nhi@pve!reader"}).identity == "nhi@pve!reader"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("api_host", ""),
        ("api_host", "pve\nHost: evil"),
        ("api_host", "https://pve.example.net"),
        ("api_user", "nhi"),
        ("api_token_secret", "a b"),
        ("api_port", 70000),
        ("api_port", 0),
        ("timeout", -1),
        ("timeout", 0),
    ],
)
def test_values_no_request_could_use_are_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises(ParameterError, match=option) as caught:
        endpoint_from_params({**PARAMS, option: value})
    assert SECRET not in str(caught.value)


def test_an_ipv6_host_is_written_in_brackets() -> None:
    assert endpoint_from_params({**PARAMS, "api_host": "::1"}).server == "[::1]:8006"


def test_requests_of_a_request_log_have_a_method_and_path(server: ApiServer, client: ProxmoxClient) -> None:
    client.get("/nodes/")
    request: Request = server.requests[0]
    assert (request.method, request.path) == ("GET", "/nodes")
