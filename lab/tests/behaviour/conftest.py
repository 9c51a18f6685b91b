"""Labs for the behaviour suite: in memory, one that most tests share, faults as the command line orders them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from lab.tests.behaviour.process import command, free_port, root_password
from lab.tests.behaviour.world import World

# Version 8, without lag and delays.
OPTIONS = ["--driver", "memory", "--test-endpoint", "--pve-version", "8", "--auth-delay", "0", "--no-lag"]


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., World]]:
    """Start a lab; options given later win."""
    with contextlib.ExitStack() as stack:

        def start(*options: str) -> World:
            directory, port = tmp_path_factory.mktemp("lab") / "lab", free_port()
            stack.callback(command, "down", directory)
            command("up", directory, "--port", str(port), *OPTIONS, *options)
            return World(port, root_password(directory), directory)

        yield start


@pytest.fixture(scope="session")
def world(lab: Callable[..., World]) -> World:
    """The lab that most tests share: each makes the guests and people that it needs."""
    return lab()


@pytest.fixture(scope="session")
def container(world: World) -> int:
    """A stopped container that no test changes for good."""
    return world.container()


@pytest.fixture(scope="session")
def running(world: World) -> int:
    """A container that runs and that no test stops."""
    return world.container(running=True)


@pytest.fixture(scope="session")
def machine(world: World) -> int:
    """A stopped virtual machine."""
    return world.machine()


@pytest.fixture(scope="session")
def locked(world: World) -> Iterator[int]:
    """A stopped container with a lock that nobody takes away."""
    vmid = world.container(tags="web")
    with world.fault("stuck-lock", vmid=vmid, text="backup"):
        yield vmid


@pytest.fixture
def slowly(world: World) -> Iterator[None]:
    """Creating a container takes a second."""
    with world.fault("task-slow", task="vzcreate", delay=1):
        yield


@pytest.fixture
def endlessly(world: World) -> Iterator[None]:
    """Creating a container takes longer than any test."""
    with world.fault("task-slow", task="vzcreate", delay=300):
        yield
