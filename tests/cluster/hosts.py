"""Several hosts on one machine: network namespaces with a bridge between them.

They share files, as machines with a network file system do, and nothing else of the network.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
NETWORK = "10.77.0"

_count = itertools.count()
"""A counter for unique names: the links of a removed namespace disappear with a delay."""


class Hosts:
    """Named hosts, each with an address and a link that can be cut."""

    def __init__(self, names: Sequence[str], prefix: str) -> None:
        self._prefix = prefix
        self._bridge = f"{prefix}br"
        self.addresses = {name: f"{NETWORK}.{i}" for i, name in enumerate(names, 1)}

    def make(self) -> None:
        """Create the hosts and their network."""
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("link", "set", self._bridge, "up")
        for name, address in self.addresses.items():
            space, link = self._space(name), self._link(name)
            _ip("netns", "add", space)
            _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("link", "set", link, "master", self._bridge, "up")
            _ip("-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", space, "link", "set", "eth0", "up")
            _ip("-n", space, "link", "set", "lo", "up")

    def unmake(self) -> None:
        """Remove the hosts, also if only some were created."""
        for name in self.addresses:
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "del", self._space(name))
        with suppress(subprocess.CalledProcessError):
            _ip("link", "del", self._bridge)

    def words(self, host: str, *words: object) -> list[str]:
        """Return the command line that runs *words* on *host*."""
        return ["ip", "netns", "exec", self._space(host), *map(str, words)]

    def cut(self, host: str) -> None:
        """Cut the link of *host* silently: packets are lost without an error."""
        _ip("link", "set", self._link(host), "nomaster")

    def restore(self, host: str) -> None:
        """Restore the link of *host*."""
        _ip("link", "set", self._link(host), "master", self._bridge)

    def listening(self, host: str) -> list[tuple[str, int]]:
        """Return the (address, port) pairs on which processes of *host* listen."""
        done = subprocess.run(
            self.words(host, "ss", "-Htln"), capture_output=True, text=True, check=True
        )
        ends = [line.split()[3].rpartition(":") for line in done.stdout.splitlines()]
        return [(address.strip("[]"), int(port)) for address, _, port in ends]

    def _space(self, name: str) -> str:
        return f"{self._prefix}-{name}"

    def _link(self, name: str) -> str:
        return f"{self._prefix}v{name}"


@contextmanager
def hosts(*names: str) -> Iterator[Hosts]:
    """Create hosts, and remove them after the block."""
    network = Hosts(names, f"t{os.getpid() % 10_000}n{next(_count)}")
    try:
        network.make()
        yield network
    finally:
        network.unmake()


def why_not() -> str | None:
    """Return the reason why this machine cannot create hosts, or None if it can."""
    if sys.platform != "linux" or shutil.which("ip") is None or shutil.which("ss") is None:
        return "needs Linux and iproute2"
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    done = subprocess.run(["ip", "netns", "add", f"try{os.getpid()}"], capture_output=True)
    if done.returncode:
        return "network namespaces are not allowed here"
    _ip("netns", "del", f"try{os.getpid()}")
    return None


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
