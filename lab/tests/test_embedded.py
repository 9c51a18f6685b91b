"""Embedded servers on loopback addresses: started once, answering, stopped with the lab."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import embedded
from lab.embedded import EmbeddedError

ADDRESS = "127.86.251.105"


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    embedded.stop(tmp_path)


def said(line: bytes) -> bytes:
    with socket.create_connection((ADDRESS, 6379), timeout=3) as connection:
        connection.sendall(line + b"\r\n")
        return connection.recv(200)


def test_redis_answers_on_the_address_of_its_guest_and_is_started_once(directory: Path) -> None:
    assert embedded.start("redis", ADDRESS, directory)
    assert said(b"PING") == b"+PONG\r\n"
    assert not embedded.start("redis", ADDRESS, directory)


def test_redis_wants_the_password_it_was_given(directory: Path) -> None:
    embedded.start("redis", ADDRESS, directory, "secret word")
    assert said(b"PING").startswith(b"-NOAUTH")
    assert said(b'AUTH "secret word"') == b"+OK\r\n"
    config = next(directory.glob("embedded/*/valkey.conf"))
    assert config.stat().st_mode & 0o077 == 0


def test_stop_ends_every_server_and_may_be_repeated(directory: Path) -> None:
    embedded.start("redis", ADDRESS, directory)
    assert embedded.stop(directory) == 1
    assert not embedded.answers(ADDRESS, 6379)
    assert embedded.stop(directory) == 0


def test_a_pid_that_now_belongs_to_another_program_is_left_alone(directory: Path) -> None:
    home = directory / "embedded" / f"redis-{ADDRESS}"
    home.mkdir(parents=True)
    (home / "pid").write_text(f"{os.getpid()} valkey-server\n")
    assert embedded.stop(directory) == 0


def test_an_address_in_use_is_refused(directory: Path) -> None:
    with socket.create_server((ADDRESS, 6379)), pytest.raises(EmbeddedError, match="something else listens"):
        embedded.start("redis", ADDRESS, directory)


def test_a_service_that_can_not_be_embedded_is_refused(directory: Path) -> None:
    with pytest.raises(EmbeddedError, match="only redis and postgresql"):
        embedded.start("mongodb", ADDRESS, directory)


@pytest.mark.skipif(os.geteuid() == 0, reason="PostgreSQL refuses to run as root")
def test_postgresql_answers_without_root(directory: Path) -> None:
    assert embedded.start("postgresql", ADDRESS, directory)
    assert embedded.answers(ADDRESS, 5432)


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user may run PostgreSQL")
def test_postgresql_as_root_is_refused_with_the_reason(directory: Path) -> None:
    with pytest.raises(EmbeddedError, match="refuses to run as root"):
        embedded.start("postgresql", ADDRESS, directory)
