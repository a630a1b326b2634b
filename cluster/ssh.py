"""Workers on machines that are reached over ssh, for the duration of a command.

The scheduler runs in the process of the command. The `ssh` program, with the user's configuration,
starts `tesserae cluster worker --stdin` on each machine. That reads its certificate from standard
input, and ends when standard input ends or stays silent: when the command ends in any way, or the
connection is lost. So nothing is copied to the machines, and nothing remains on them.
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
from cluster.embedded_scheduler import EmbeddedScheduler
from cluster.errors import ClusterError
from cluster.processes.heartbeat import Heartbeat
from cluster.processes.stdin_link import ERROR_PREFIX, WorkerLink, stdin_worker_command

SSH_COMMAND = ("ssh", "-T", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=15")
CONNECT_SECONDS = 30.0
"""The timeout of a first connection to a machine."""
MAINTENANCE_INTERVAL_SECONDS = 5.0
"""The interval between two checks for lost machines."""
RECONNECT_INTERVAL_SECONDS = 30.0
"""The minimum time between two starts of the workers of a machine."""
CLOSE_SECONDS = 30.0
"""The timeout for all machines to end their workers."""

_HOST_OPTIONS = ("workers", "threads", "gpus", "scratch", "python", "lifetime")
_INTEGER_HOST_OPTIONS = {"workers", "threads"}


@dataclass(frozen=True)
class Host:
    """A machine, as read from a line of the file of hosts."""

    name: str
    """The name that `ssh` accepts: `[user@]host`."""
    options: dict[str, str]
    """The options of its workers, by name."""


@dataclass(frozen=True)
class Hosts:
    """The contents of a file of hosts."""

    hosts: tuple[Host, ...]
    scheduler: str | None = None
    """The address of this machine that the hosts can reach; None to detect it."""


def read_hosts(path: Path) -> Hosts:
    """Read a file of hosts with lines `[user@]host [workers=N] [threads=N] [gpus=...] ...`.

    A line `scheduler=ADDRESS` sets the address of this machine that the hosts can reach, without a
    port; the last such line counts. Words are separated by spaces and may be quoted as in a shell.

    Options are `workers`, `threads`, `gpus`, `scratch` and `lifetime`, as of `tesserae cluster
    worker`, and `python`, the path of the interpreter on the host. Only the names of options, and
    that `workers` and `threads` are numbers, are checked. No host is contacted.

    Args:
        path: The file; `#` begins a comment.

    Returns:
        `hosts` (each with `name` and `options`, texts by name, in the order of the file) and
        `scheduler` (the address; None if the file sets none).

    Raises:
        ClusterError: The file cannot be read, a line is invalid, or there are no hosts.
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
                hosts.append(_parse_host_line(words))
        except ValueError as e:
            raise ClusterError(f"{path}, line {number}: {e}.") from None
    if not hosts:
        raise ClusterError(f"the file of hosts {path} lists no host.")
    return Hosts(tuple(hosts), scheduler)


def _parse_host_line(words: Sequence[str]) -> Host:
    settings = dict(word.partition("=")[::2] for word in words[1:])
    unknown = [name for name in settings if name not in _HOST_OPTIONS or not settings[name]]
    if unknown or words[0].startswith("-") or "=" in words[0]:
        raise ValueError(
            f"{(unknown or words)[0]!r} is invalid: expected [user@]host, followed by any of"
            f" {', '.join(f'{name}=...' for name in _HOST_OPTIONS)}"
        )
    for name in sorted(_INTEGER_HOST_OPTIONS & settings.keys()):
        if not settings[name].isdecimal():
            raise ValueError(f"{name} is {settings[name]!r}: expected a number")
    return Host(words[0], settings)


class SshCluster(EmbeddedScheduler):
    """A cluster over ssh. Use it as a context manager."""

    def __init__(
        self, hosts: Hosts, *, dashboard: bool, report: Callable[[str], None] = lambda _: None
    ) -> None:
        """Start the scheduler, and workers on all hosts.

        Args:
            hosts: The machines.
            dashboard: True to serve the dashboard on the loopback address of this machine.
            report: Called with one line when a machine was lost.

        Raises:
            ClusterError: A machine cannot be reached.
        """
        self._report = report
        self._hosts = hosts.hosts
        self._files = certificates.create_certificates()
        self._links: list[_SshLink] = []
        host = hosts.scheduler or _address_towards_host(hosts.hosts)
        super().__init__(host, self._files, dashboard=dashboard)
        self._checked = time.monotonic()
        self._links = [_SshLink(host, self.address, self._files) for host in self._hosts]
        self._heartbeat = Heartbeat(self._beat)

    def check_startup(self) -> None:
        """Check that no machine has failed to start its workers; called while there is none.

        Raises:
            ClusterError: One has failed; the message contains its last output.
        """
        for link in self._links:
            if (output := link.exit_message()) is not None:
                if output.startswith(ERROR_PREFIX):  # our own message: it names the cause
                    raise ClusterError(f"{link.host.name}: {output.removeprefix(ERROR_PREFIX)}")
                raise ClusterError(
                    f"{link.host.name}: {output or 'the connection ended'}. It needs the same"
                    " Tesserae under the same path, or python=PATH in the file of hosts."
                )

    def maintain(self) -> None:
        """Reconnect lost machines. Callers poll this; it limits its own rate."""
        now = time.monotonic()
        if now - self._checked > MAINTENANCE_INTERVAL_SECONDS:
            self._checked = now
            for index, link in enumerate(self._links):
                if (
                    output := link.exit_message()
                ) is not None and now - link.begun > RECONNECT_INTERVAL_SECONDS:
                    self._report(
                        f"lost {link.host.name} ({output or 'no reason given'}); reconnecting"
                    )
                    link.disconnect()
                    link.wait(0)
                    self._links[index] = _SshLink(link.host, self.address, self._files)

    def _beat(self) -> None:
        for link in list(self._links):
            link.send_heartbeat()

    def close(self) -> None:
        """Stop the workers on all machines, and the scheduler."""
        self._heartbeat.stop()
        # All are told first, so that they end at the same time.
        for link in self._links:
            link.disconnect()
        deadline = time.monotonic() + CLOSE_SECONDS
        for link in self._links:
            link.wait(max(0.1, deadline - time.monotonic()))
        super().close()


class _SshLink(WorkerLink):
    """The `ssh` process to one machine."""

    def __init__(self, host: Host, address: str, files: dict[str, bytes]) -> None:
        self.host = host
        options = {name: value for name, value in host.options.items() if name != "python"}
        command = stdin_worker_command(host.options.get("python", sys.executable), address, options)
        super().__init__([*SSH_COMMAND, host.name, f"exec {shlex.join(command)}"], files)


def _address_towards_host(hosts: Sequence[Host]) -> str:
    """Return the address of this machine that the hosts see, preferably not a loopback address."""
    addresses = []
    for host in hosts:
        try:
            completed = subprocess.run(
                [*SSH_COMMAND, host.name, 'echo "$SSH_CONNECTION"'],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
                timeout=CONNECT_SECONDS,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise ClusterError(
                f"{host.name} did not answer within {CONNECT_SECONDS:.0f} s. Try `ssh {host.name}`."
            ) from None
        except FileNotFoundError:
            raise ClusterError("ssh is not installed. Install openssh-client.") from None
        match = re.search(r"^(\S+) \d+ \S+ \d+$", completed.stdout, re.MULTILINE)
        if completed.returncode or match is None:
            errors = completed.stderr.strip().splitlines()
            raise ClusterError(
                f"cannot connect to {host.name} ({errors[-1] if errors else 'no answer'}). ssh"
                f" must work without a password prompt: try `ssh {host.name} true`."
            )
        addresses.append(match[1])
    external = [address for address in addresses if not address.startswith(("127.", "::1"))]
    return external[0] if external else addresses[0]
