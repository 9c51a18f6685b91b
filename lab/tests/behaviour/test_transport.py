"""Measured behaviour, section 1: transport and envelope, requests and connections."""

from __future__ import annotations

import gzip
import json
from itertools import islice

import pytest

from lab.tests.behaviour.client import BASE, FORM, JSON, Answer, Wire, expect
from lab.tests.behaviour.world import MISSING, NODE, World, ct

RESOURCES = f"{BASE}/cluster/resources"


def test_success_is_200_with_data_in_an_object(world: World) -> None:
    answer = world.nobody.get("/version")
    assert answer.line == "200 OK"
    assert answer.headers["content-type"] == "application/json;charset=UTF-8"
    assert set(answer.json) == {"data"}


def test_lists_with_paging_add_their_total(world: World) -> None:
    answer = world.root.get(f"/nodes/{NODE}/tasks")
    assert set(answer.json) == {"data", "total"}
    assert isinstance(answer.json["total"], int)


def test_an_error_of_a_handled_call_is_reason_and_message(world: World) -> None:
    expect(
        world.root.get(ct(MISSING, "/config")),
        f"500 Configuration file 'nodes/{NODE}/lxc/{MISSING}.conf' does not exist",
    )


def test_a_400_adds_errors(world: World) -> None:
    answer = world.root.get("/cluster/nextid", vmid=99)
    expect(answer, "400 Parameter verification failed.")
    assert set(answer.json) == {"data", "message", "errors"}


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_a_501_message_has_no_line_feed(world: World, method: str) -> None:
    answer = world.root.call(method, "/nosuch", {})
    assert answer.line == f"501 Method '{method} /nosuch' not implemented"
    assert answer.json == {"data": None, "message": f"Method '{method} /nosuch' not implemented"}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        pytest.param("DELETE", "/version", id="no such method of a known path"),
        pytest.param("POST", "/cluster/resources", id="write to a list"),
        pytest.param("GET", f"/nodes/{NODE}/lxc/100/nosuch", id="unknown leaf below a guest"),
    ],
)
def test_an_unknown_call_is_501(world: World, method: str, path: str) -> None:
    assert world.root.call(method, path, {}).line == f"501 Method '{method} {path}' not implemented"


@pytest.mark.parametrize("path", ["/version", "/nosuch"])
def test_headers_of_every_answer(world: World, path: str) -> None:
    headers = world.root.get(path).headers
    assert headers["server"] == "pve-api-daemon/3.0"
    assert headers["cache-control"] == "max-age=0"
    assert headers["pragma"] == "no-cache"
    assert headers["expires"] == headers["date"]


# Connections


def _twice(world: World, target: str) -> tuple[Answer, bool]:
    """One answer over a connection, and whether that connection is closed afterwards."""
    with Wire(world.port) as wire:
        answer = wire.send(world.root.request("GET", target))
        return answer, wire.is_closed()


def test_success_keeps_the_connection(world: World) -> None:
    with Wire(world.port) as wire:
        for _ in range(3):
            answer = wire.send(world.root.request("GET", f"{BASE}/version"))
            assert answer.line == "200 OK"
            assert answer.headers.get("connection", "").lower() != "close"


@pytest.mark.parametrize(
    ("target", "status"),
    [
        pytest.param(f"{BASE}/cluster/nextid?vmid=99", 400, id="400"),
        pytest.param(f"{BASE}{ct(MISSING, '/config')}", 500, id="500"),
        pytest.param(f"{BASE}/nosuch", 501, id="501"),
    ],
)
def test_every_status_from_400_on_drops_the_connection(world: World, target: str, status: int) -> None:
    answer, closed = _twice(world, target)
    assert answer.status == status
    assert answer.headers["connection"].lower() == "close"
    assert closed


def test_a_403_drops_the_connection(world: World) -> None:
    with Wire(world.port) as wire:
        assert wire.send(world.nobody.request("GET", f"{BASE}/nodes/{NODE}/status")).status == 403
        assert wire.is_closed()


def test_a_connection_serves_at_most_1000_requests(world: World) -> None:
    request = world.nobody.request("GET", f"{BASE}/version")
    with Wire(world.port) as wire:
        answers = list(islice((wire.send(request) for _ in range(1000)), 1000))
        assert {a.line for a in answers} == {"200 OK"}
        assert answers[998].headers.get("connection", "").lower() != "close"
        assert wire.is_closed()


def test_large_answers_are_compressed_on_request(world: World) -> None:
    for _ in range(8):
        world.container()
    plain = world.root.send("GET", RESOURCES)
    packed = world.root.send("GET", RESOURCES, Accept_Encoding="gzip")
    assert len(plain.body) > 1024
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert {row["id"] for row in json.loads(gzip.decompress(packed.body))["data"]} == {
        row["id"] for row in plain.json["data"]
    }


def test_small_answers_are_not_compressed(world: World) -> None:
    answer = world.root.send("GET", f"{BASE}/version", Accept_Encoding="gzip")
    assert len(answer.body) < 1024
    assert "content-encoding" not in answer.headers


# Outside of the API's own methods


@pytest.mark.parametrize(
    ("method", "line"),
    [
        ("GET", "301 Moved Permanently"),
        ("HEAD", "301 Moved Permanently"),
        ("POST", "308 Permanent Redirect"),
    ],
)
def test_plain_http_is_sent_to_https(world: World, method: str, line: str) -> None:
    with Wire(world.port, tls=False) as wire:
        body = b"a=1" if method == "POST" else b""
        answer = wire.send(world.anonymous.request(method, f"{BASE}/version", body))
    assert answer.line == line
    assert answer.headers["location"].startswith("https://")
    assert answer.headers["location"].endswith(f"{BASE}/version")


@pytest.mark.parametrize("method", ["HEAD", "PATCH"])
def test_head_and_patch_are_not_available(world: World, method: str) -> None:
    answer = world.root.send(method, f"{BASE}/version")
    assert answer.line == f"501 method '{method}' not available"
    assert answer.body == b""


def test_extjs_errors_are_200(world: World) -> None:
    answer = world.root.send("GET", f"/api2/extjs{ct(MISSING, '/config')}")
    assert answer.line == "200 OK"
    assert answer.json["success"] == 0
    assert answer.json["status"] == 500
    assert answer.json["data"] is None
    assert answer.json["message"].rstrip("\n") == f"Configuration file 'nodes/{NODE}/lxc/{MISSING}.conf' does not exist"


def test_extjs_parameter_errors_are_listed(world: World) -> None:
    answer = world.root.send("GET", "/api2/extjs/cluster/nextid?vmid=99")
    assert (answer.line, answer.json["success"], answer.json["status"]) == ("200 OK", 0, 400)
    assert set(answer.json["errors"]) == {"vmid"}


def test_extjs_success(world: World) -> None:
    answer = world.root.send("GET", "/api2/extjs/version")
    assert answer.json["success"] == 1
    assert answer.json["data"] == world.root.get("/version").data


@pytest.mark.parametrize(
    ("target", "line"),
    [
        pytest.param("/api2/nosuch/version", "501 no formatter for uri /version, nosuch", id="unknown formatter"),
        pytest.param("/nosuch", "500 no such file '/nosuch'", id="unknown static file"),
    ],
)
def test_errors_before_a_handler_are_plain_text(world: World, target: str, line: str) -> None:
    answer = world.root.send("GET", target)
    assert answer.line == line
    assert answer.text.strip() == line.split(" ", 1)[1]
    assert "json" not in answer.headers.get("content-type", "")


# Bodies

POOLS = f"{BASE}/pools"


def test_a_form_body_is_read(world: World) -> None:
    assert world.root.send("POST", POOLS, b"poolid=form", Content_Type=FORM).line == "200 OK"


def test_a_json_body_is_read(world: World) -> None:
    assert world.root.send("POST", POOLS, b'{"poolid":"json"}', Content_Type=JSON).line == "200 OK"


def test_malformed_json_is_500(world: World) -> None:
    answer = world.root.send("POST", POOLS, b'{"poolid":', Content_Type=JSON)
    assert answer.status == 500
    assert answer.reason.startswith("malformed JSON string, ")
    assert answer.reason.endswith("/AnyEvent.pm line 917.")
    assert not answer.body.startswith(b"{")


def test_a_json_array_is_500(world: World) -> None:
    answer = world.root.send("POST", POOLS, b"[1]", Content_Type=JSON)
    assert answer.status == 500
    assert answer.reason.startswith("Not a HASH reference at ")


def test_another_content_type_is_506(world: World) -> None:
    answer = world.root.send("POST", POOLS, b"poolid=text", Content_Type="text/plain")
    assert answer.line == "506 upload 'Content-Type 'text/plain' not implemented"


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_body_where_none_belongs_is_501(world: World, method: str) -> None:
    answer = world.root.send(method, f"{BASE}{ct(MISSING)}", b"force=1", Content_Type=FORM)
    assert answer.line == f"501 Unexpected content for method '{method}'"


def test_chunked_transfer_is_501(world: World) -> None:
    answer = world.root.send("POST", POOLS, b"0\r\n\r\n", Content_Type=FORM, Transfer_Encoding="chunked")
    assert answer.status == 501


def test_a_body_over_512_kib_is_501(world: World) -> None:
    answer = world.root.send("POST", POOLS, b"comment=" + b"a" * (513 * 1024), Content_Type=FORM)
    assert answer.line == "501 for data too large"


def test_more_than_64_header_lines_are_refused(world: World) -> None:
    many = {f"X-Header-{n}": "1" for n in range(70)}
    with Wire(world.port) as wire:
        assert wire.send(world.root.request("GET", f"{BASE}/version", **many)).status >= 400
        assert wire.is_closed()
    few = {f"X-Header-{n}": "1" for n in range(40)}
    assert world.root.send("GET", f"{BASE}/version", **few).status == 200


# Parameters on their way in


def test_a_parameter_twice_with_different_values_is_400(world: World) -> None:
    answer = world.root.send("POST", f"{POOLS}?poolid=one", b"poolid=two", Content_Type=FORM)
    assert answer.errors == {"poolid": "duplicate parameter (already defined in URI) with conflicting values!"}


def test_a_parameter_twice_with_the_same_value_is_taken(world: World) -> None:
    assert world.root.send("POST", f"{POOLS}?poolid=same", b"poolid=same", Content_Type=FORM).line == "200 OK"


def test_a_repeated_key_becomes_a_list_which_a_number_is_not(world: World) -> None:
    answer = world.root.get(f"/nodes/{NODE}/tasks", limit=[1, 2])
    assert set(answer.errors) == {"limit"}


@pytest.mark.parametrize(
    ("body", "kind", "stored"),
    [
        pytest.param(b'{"onboot":true}', JSON, 1, id="JSON true"),
        pytest.param(b'{"onboot":1}', JSON, 1, id="JSON 1"),
        pytest.param(b'{"onboot":0}', JSON, 0, id="JSON 0"),
        pytest.param(b"onboot=1", FORM, 1, id="form 1"),
        pytest.param(b"onboot=0", FORM, 0, id="form 0"),
    ],
)
def test_booleans_that_are_taken(world: World, container: int, body: bytes, kind: str, stored: int) -> None:
    assert world.root.send("PUT", f"{BASE}{ct(container, '/config')}", body, Content_Type=kind).line == "200 OK"
    assert int(world.config(container)["onboot"]) == stored


@pytest.mark.parametrize("word", ["yes", "maybe", "2"])
def test_booleans_that_are_refused(world: World, container: int, word: str) -> None:
    answer = world.root.put(ct(container, "/config"), onboot=word)
    assert answer.errors == {"onboot": f"type check ('boolean') failed - got '{word}'"}


@pytest.mark.parametrize("target", [f"{BASE}/version/", f"{BASE}//version", "/api2//json/version", f"{BASE}/version//"])
def test_superfluous_slashes_are_accepted(world: World, target: str) -> None:
    assert world.root.send("GET", target).line == "200 OK"


# The order of checks


def test_authentication_comes_before_the_path(world: World) -> None:
    assert world.anonymous.get("/nosuch").line == "401 No ticket"


def test_the_path_comes_before_permissions(world: World) -> None:
    assert world.nobody.get("/nosuch").line == "501 Method 'GET /nosuch' not implemented"


def test_permissions_come_before_the_unknown_node(world: World) -> None:
    expect(world.nobody.get("/nodes/nosuch/status"), "403 Permission check failed (/nodes/nosuch, Sys.Audit)")


def test_permissions_come_before_parameters(world: World) -> None:
    expect(
        world.nobody.get(f"/nodes/{NODE}/status", nosuch=1), f"403 Permission check failed (/nodes/{NODE}, Sys.Audit)"
    )


def test_the_unknown_node_comes_before_parameters(world: World) -> None:
    expect(
        world.root.get("/nodes/nosuch/status", nosuch=1),
        "500 hostname lookup 'nosuch' failed - failed to get address info for: nosuch: Name or service not known",
    )


def test_parameters_come_before_the_code(world: World) -> None:
    assert set(world.root.get(ct(MISSING, "/config"), nosuch=1).errors) == {"nosuch"}


class TestCreateChecksParametersThenTheVmidThenPrivileges:
    """POST /lxc is open to every user: its code checks."""

    def test_parameters_before_the_existing_vmid(self, world: World, container: int) -> None:
        answer = world.create(world.nobody, vmid=container, memory=1)
        assert answer.errors == {"memory": "value must have a minimum value of 16"}

    def test_the_existing_vmid_before_privileges(self, world: World, container: int) -> None:
        expect(world.create(world.nobody, vmid=container), f"500 CT {container} already exists on node '{NODE}'")

    def test_privileges_last(self, world: World) -> None:
        expect(world.create(world.nobody), "403 Permission check failed")
