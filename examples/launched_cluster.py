"""A kind of cluster: workers that command lines start, such as `docker exec -i node1`."""

import shlex
import sys
from pathlib import Path

from cluster import certificates
from cluster.embedded_scheduler import EmbeddedScheduler
from cluster.errors import ClusterError
from cluster.processes.heartbeat import Heartbeat
from cluster.processes.stdin_link import WorkerLink, stdin_worker_command

CLOSE_SECONDS = 30.0
"""The timeout for a worker to end before it is killed."""


def read_launchers(path: Path) -> tuple[str, list[list[str]]]:
    """Read an address of this machine, and on each further line the words that start a worker.

    Raises:
        ClusterError: The file has no launcher, or cannot be read.
    """
    try:
        host, *launchers = path.read_text().splitlines()
    except (OSError, ValueError) as error:
        raise ClusterError(f"the file of launchers {path} cannot be read ({error}).") from None
    if not launchers:
        raise ClusterError(f"the file of launchers {path} has none: expected one on each line.")
    return host, [shlex.split(line) for line in launchers]


class LaunchedCluster(EmbeddedScheduler):
    """A scheduler in this process, and a worker behind each launcher. Use as a context manager."""

    def __init__(self, path: Path, *, dashboard: bool) -> None:
        """Start the scheduler, and the workers of a file of launchers."""
        host, launchers = read_launchers(path)
        self._files = certificates.create_certificates()
        super().__init__(host, self._files, dashboard=dashboard)
        options = {"workers": "1", "gpus": "none"}
        worker = stdin_worker_command(sys.executable, self.address, options)
        self._commands = [[*launcher, *worker] for launcher in launchers]
        self._links = [WorkerLink(command, self._files) for command in self._commands]
        self._heartbeat = Heartbeat(self._beat)  # without it, workers end by themselves

    def check_startup(self) -> None:
        """Raise ClusterError if a worker failed to start; called while there is none."""
        for link in self._links:
            if (output := link.exit_message()) is not None:
                raise ClusterError(f"a worker has ended: {output}")

    def maintain(self) -> None:
        """Start a worker again that has ended; called again and again while tasks run."""
        for number, link in enumerate(self._links):
            if link.exit_message() is not None:
                link.disconnect()
                link.wait(0)
                self._links[number] = WorkerLink(self._commands[number], self._files)

    def _beat(self) -> None:
        for link in self._links:
            link.send_heartbeat()

    def close(self) -> None:
        """End the workers, then the scheduler."""
        self._heartbeat.stop()
        for link in self._links:
            link.disconnect()
        for link in self._links:
            link.wait(CLOSE_SECONDS)
        super().close()
