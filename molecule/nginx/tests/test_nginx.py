"""What a user of the role relies on, seen on the guest and from outside."""

from __future__ import annotations

import http.client
import ssl
import time
from typing import Any

import pytest

testinfra_hosts = ["ansible://molecule-nginx"]


@pytest.fixture
def address(host: Any) -> str:
    return str(host.ansible.get_variables()["ansible_host"])


class Answer:
    """What came back from a server."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status, self.headers, self.text = response.status, response.headers, response.read().decode()


def get(address: str, name: str = "", path: str = "/", *, port: int = 80, **more: Any) -> Answer:
    connection = http.client.HTTPConnection(address, port, timeout=5)
    if port == 443:
        connection = http.client.HTTPSConnection(address, port, timeout=5, context=ssl._create_unverified_context())
    try:
        connection.request("GET", path, headers={"Host": name or address}, **more)
        return Answer(connection.getresponse())
    finally:
        connection.close()


def test_it_runs_now_and_after_a_reboot(host: Any) -> None:
    assert host.service("nginx").is_running
    assert host.service("nginx").is_enabled


def test_it_listens_on_the_new_addresses_only(host: Any, address: str) -> None:
    """It listened everywhere before, which no reload can change."""
    listening = {entry for entry in host.socket.get_listening_sockets() if entry.startswith("tcp://")}

    assert {entry for entry in listening if not entry.endswith(":22")} == {
        f"tcp://{address}:80",
        f"tcp://{address}:443",
        "tcp://127.0.0.1:80",
        "tcp://127.0.0.1:8081",
    }


def test_a_health_check_is_answered_whatever_name_it_asks_for(address: str) -> None:
    for name in ("", "unknown.example.com"):
        answer = get(address, name, "/healthz")
        assert answer.status == 200
        assert answer.text.startswith("ok ")


def test_who_asks_for_no_site_is_told_so(address: str) -> None:
    assert "No site is served under this name" in get(address).text
    assert get(address, path="/index.html").status == 404


def test_a_site_serves_its_directory(address: str) -> None:
    answer = get(address, "handbook.example.com")

    assert (answer.status, answer.text) == (200, "the handbook\n")
    assert answer.headers["Content-Type"] == "text/html"
    assert get(address, "handbook.example.com", "/missing").status == 404


@pytest.mark.parametrize("name", ["shop.example.com", "north.shop.example.com"])
def test_an_application_behind_a_site_knows_who_asked_for_what(host: Any, address: str, name: str) -> None:
    asked, client, scheme, connection, path = get(address, name, "/cart?item=7").text.strip().split("|")

    assert (asked, scheme, path) == (name, "http", "/cart?item=7")
    assert client == host.check_output("ip route get 1.0.0.0 | grep -o 'via [^ ]*'").removeprefix("via ")
    assert connection == ""


def test_a_web_socket_is_passed_on(address: str) -> None:
    connection = http.client.HTTPConnection(address, timeout=5)
    wanted = {"Host": "shop.example.com", "Upgrade": "websocket", "Connection": "Upgrade"}
    connection.request("GET", "/", headers=wanted)

    assert "|upgrade|" in connection.getresponse().read().decode()
    connection.close()


def test_a_body_that_is_too_large_is_refused(address: str) -> None:
    assert get(address, "shop.example.com", body=b"x" * (2 << 20)).status == 413


def test_a_site_may_do_without_a_directory_and_have_a_certificate(address: str) -> None:
    for port in (80, 443):
        answer = get(address, "moved.example.com", "/page", port=port)
        assert (answer.status, answer.headers["Location"]) == (301, "https://handbook.example.com/page")


def test_the_version_is_told_to_nobody(address: str) -> None:
    for answer in (get(address), get(address, path="/missing"), get(address, "handbook.example.com", "/missing")):
        assert answer.headers["Server"] == "nginx"
        assert "nginx/" not in answer.text


def test_sites_that_are_not_listed_are_gone_and_their_files_are_not(host: Any, address: str) -> None:
    assert "the old site" not in get(address, "old.example.com").text
    assert host.file("/srv/old/index.html").content_string == "the old site\n"
    assert host.file("/etc/nginx/sites-enabled/by-hand").exists  # and port 8099 is not open, see above


def test_what_runs_is_what_is_written(host: Any, address: str) -> None:
    assert get(address, path="/healthz").text.strip() in host.file("/etc/nginx/nginx.conf").content_string
    assert "server_tokkens" not in host.file("/etc/nginx/nginx.conf").content_string
    assert host.run("nginx -t").rc == 0


def test_a_killed_server_comes_back(host: Any, address: str) -> None:
    host.check_output("systemctl kill --signal=KILL nginx")

    assert wait_for(address, "handbook.example.com").status == 200


def wait_for(address: str, name: str) -> Answer:
    deadline = time.monotonic() + 20
    while True:
        try:
            return get(address, name)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
