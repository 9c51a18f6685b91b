"""Labs for the behaviour suite: in memory, one per module, faults ordered through the file the command line writes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from lab.tests.behaviour.process import command, free_port, root_password
from lab.tests.behaviour.world import World


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., World]]:
    """Start a lab of version 8 without lag and delays; options given later win."""
    with contextlib.ExitStack() as stack:

        def start(*options: str) -> World:
            directory, port = tmp_path_factory.mktemp("lab") / "lab", free_port()
            stack.callback(command, "down", directory)
            lag = () if "--lag" in options else ("--no-lag",)
            command(
                "up",
                directory,
                "--port",
                str(port),
                "--driver",
                "memory",
                "--test-endpoint",
                "--pve-version",
                "8",
                "--auth-delay",
                "0",
                *lag,
                *(o for o in options if o != "--lag"),
            )
            return World(port, root_password(directory), directory)

        yield start


@pytest.fixture(scope="module")
def world(lab: Callable[..., World]) -> World:
    """The lab that the tests of one module share."""
    return lab()


@pytest.fixture(scope="module")
def container(world: World) -> int:
    """A stopped container that no test changes for good."""
    return world.container()


@pytest.fixture(scope="module")
def running(world: World) -> int:
    """A container that runs and that no test stops."""
    return world.container(running=True)


@pytest.fixture(scope="module")
def machine(world: World) -> int:
    """A stopped virtual machine."""
    return world.machine()


@pytest.fixture(scope="module")
def locked(world: World) -> Iterator[int]:
    """A stopped container with a lock that nobody takes away."""
    vmid = world.container(tags="web")
    with world.fault("stuck-lock", vmid=vmid, text="backup"):
        yield vmid


@pytest.fixture
def slowly(world: World) -> Iterator[None]:
    """Creating a container takes half a second."""
    with world.fault("task-slow", task="vzcreate", delay=0.5):
        yield
