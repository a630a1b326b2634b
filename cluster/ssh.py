"""Workers on machines that are reached by ssh, for as long as a command runs.

The scheduler is in the command's process. On each machine `ssh`, the program, with all that a
person has set for it, runs this machine's `tesserae cluster worker --stdin`, which is told its
certificate on standard input and ends when that ends: with the command, however it ended, with the
connection, or when nothing has been heard for a while. So nothing is copied there, and nothing is
left there.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster import certificates
from cluster.embedded import Here
from cluster.errors import ClusterError
from cluster.processes.heartbeat import Heartbeat
from cluster.processes.stdin_link import SAYS, WorkerLink, worker_words

SSH = ("ssh", "-T", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=15")
CONNECT_SECONDS = 30.0
BEAT_SECONDS = 15.0
"""Between two signs of life."""
SILENCE_SECONDS = 120.0
"""Without one for so long, a machine takes it that nobody is there."""
KEEP_SECONDS = 5.0
AGAIN_SECONDS = 30.0
"""Before a machine that was lost is tried again."""
CLOSE_SECONDS = 30.0

_SETTINGS = ("workers", "threads", "gpus", "scratch", "python", "lifetime")
_NUMBERS = {"workers", "threads"}


@dataclass(frozen=True)
class Host:
    """A machine, as a line of the file of hosts has it."""

    name: str
    """As `ssh` takes it."""
    settings: dict[str, str]


@dataclass(frozen=True)
class Hosts:
    """A file of hosts."""

    hosts: tuple[Host, ...]
    scheduler: str | None = None
    """The address of this machine that they reach; None = ask them."""


def read_hosts(path: Path) -> Hosts:
    """Read a file of hosts: a line each, `[user@]host [workers=N] [threads=N] [gpus=...] ...`.

    `scheduler=ADDRESS` on a line of its own names the address of this machine that they reach.

    Raises:
        ClusterError: A line makes no sense, or there is none.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise ClusterError(f"the file of hosts {path} cannot be read ({e}).") from None
    hosts, scheduler = [], None
    for number, line in enumerate(lines, 1):
        try:
            words = shlex.split(line, comments=True)
            if words and words[0].startswith("scheduler="):
                scheduler = words[0].partition("=")[2]
            elif words:
                hosts.append(_read_host(words))
        except ValueError as e:
            raise ClusterError(f"{path}, line {number}: {e}.") from None
    if not hosts:
        raise ClusterError(f"the file of hosts {path} names none.")
    return Hosts(tuple(hosts), scheduler)


def _read_host(words: Sequence[str]) -> Host:
    settings = dict(word.partition("=")[::2] for word in words[1:])
    unknown = [name for name in settings if name not in _SETTINGS or not settings[name]]
    if unknown or words[0].startswith("-") or "=" in words[0]:
        raise ValueError(
            f"{(unknown or words)[0]!r} makes no sense: expected [user@]host, and any of"
            f" {', '.join(f'{name}=...' for name in _SETTINGS)}"
        )
    for name in sorted(_NUMBERS & settings.keys()):
        if not settings[name].isdecimal():
            raise ValueError(f"{name} is {settings[name]!r}: expected a number")
    return Host(words[0], settings)


class Ssh(Here):
    """A cluster over ssh. Use as a context manager."""

    def __init__(
        self, hosts: Hosts, *, dashboard: bool, say: Callable[[str], None] = lambda _: None
    ) -> None:
        """Start it.

        Args:
            hosts: The machines.
            dashboard: Whether to serve the dashboard, on this machine's loopback address.
            say: Told, in a line, when a machine was lost.

        Raises:
            ClusterError: A machine cannot be reached, or has no Tesserae.
        """
        self._say = say
        self._hosts = hosts.hosts
        self._files = certificates.make()
        self._links: list[_Link] = []
        host = hosts.scheduler or _seen_address(hosts.hosts)
        super().__init__(host, self._files, dashboard=dashboard)
        self._checked = time.monotonic()
        self._links = [_Link(host, self.address, self._files) for host in self._hosts]
        self._heart = Heartbeat(self._beat, BEAT_SECONDS)

    def check(self) -> None:
        """See that no machine has given up while nobody works yet.

        Raises:
            ClusterError: One has, with what it said.
        """
        for link in self._links:
            if (said := link.ended()) is not None:
                if said.startswith(SAYS):  # it is there, and knows better what is wrong
                    raise ClusterError(f"{link.host.name}: {said.removeprefix(SAYS)}")
                raise ClusterError(
                    f"{link.host.name}: {said or 'the connection ended'}. It needs the same"
                    " Tesserae under the same path, or python=PATH in the file of hosts."
                )

    def keep(self) -> None:
        """Try machines again that were lost. May be called all the time."""
        now = time.monotonic()
        if now - self._checked > KEEP_SECONDS:
            self._checked = now
            for place, link in enumerate(self._links):
                if (said := link.ended()) is not None and now - link.begun > AGAIN_SECONDS:
                    self._say(f"{link.host.name} was lost ({said or 'no reason given'}); again")
                    link.hang_up()
                    link.wait(0)
                    self._links[place] = _Link(link.host, self.address, self._files)

    def _beat(self) -> None:
        for link in list(self._links):
            link.beat()

    def close(self) -> None:
        """Stop workers everywhere, and the scheduler."""
        self._heart.stop()
        for link in self._links:
            link.hang_up()
        until = time.monotonic() + CLOSE_SECONDS
        for link in self._links:
            link.wait(max(0.1, until - time.monotonic()))
        super().close()


class _Link(WorkerLink):
    """One machine, and the `ssh` that leads to it."""

    def __init__(self, host: Host, address: str, files: dict[str, bytes]) -> None:
        self.host = host
        options = {name: value for name, value in host.settings.items() if name != "python"}
        words = worker_words(host.settings.get("python", sys.executable), address, options)
        super().__init__([*SSH, host.name, f"exec {shlex.join(words)}"], files)


def _seen_address(hosts: Sequence[Host]) -> str:
    """The address of this machine as the machines see it, which all of them must agree on."""
    seen = []
    for host in hosts:
        try:
            done = subprocess.run(
                [*SSH, host.name, 'echo "$SSH_CONNECTION"'],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
                timeout=CONNECT_SECONDS,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise ClusterError(
                f"{host.name} did not answer within {CONNECT_SECONDS:.0f} s. Try: ssh {host.name}"
            ) from None
        except FileNotFoundError:
            raise ClusterError("there is no ssh here. Install openssh-client.") from None
        found = re.search(r"^(\S+) \d+ \S+ \d+$", done.stdout, re.MULTILINE)
        if done.returncode or found is None:
            said = done.stderr.strip().splitlines()
            raise ClusterError(
                f"{host.name} cannot be reached ({said[-1] if said else 'no answer'}). It must let"
                f" you in without a question: try ssh {host.name} true"
            )
        seen.append(found[1])
    beyond = [address for address in seen if not address.startswith(("127.", "::1"))]
    return beyond[0] if beyond else seen[0]
