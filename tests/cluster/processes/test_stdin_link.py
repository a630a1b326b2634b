"""Workers that end when the pipe from the process that started them is closed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from cluster import certificates, ssh
from cluster.processes.stdin_link import WorkerLink, stdin_worker_command
from cluster.ssh import Host, Hosts, SshCluster
from tests.commands import wait_until

LISTEN = """
import sys
from pathlib import Path
folder = Path(sys.argv[1])
(folder / "first").write_text(sys.stdin.readline())
beats = 0
for line in sys.stdin:
    beats += 1
    (folder / "beats").write_text(str(beats))
(folder / "ended").touch()
"""


def test_a_link_sends_certificates_and_heartbeats_until_it_is_closed(
    tmp_path: Path,
) -> None:
    """A link sends only the certificates that a worker needs."""
    link = WorkerLink(
        [sys.executable, "-c", LISTEN, str(tmp_path)], certificates.create_certificates()
    )
    link.send_heartbeat()
    assert wait_until((tmp_path / "beats").exists)
    assert set(json.loads((tmp_path / "first").read_text())) == {
        "ca.pem", "worker.pem", "worker.key",
    }  # fmt: skip
    assert link.exit_message() is None
    link.disconnect()
    assert wait_until((tmp_path / "ended").exists)
    link.wait(60)


def test_ssh_links_are_closed_when_the_command_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers end by themselves and clean up before the connection is killed."""
    monkeypatch.setattr(ssh, "SSH_COMMAND", (sys.executable, "-c", LISTEN))
    monkeypatch.setattr(ssh, "CLOSE_SECONDS", 10.0)
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
    hosts = Hosts(tuple(Host(str(folder), {}) for folder in folders), scheduler="127.0.0.1")
    with SshCluster(hosts, dashboard=False):
        assert wait_until(lambda: all((folder / "first").exists() for folder in folders))
    assert all((folder / "ended").exists() for folder in folders)


def test_the_options_of_a_worker_become_arguments() -> None:
    """The options follow the address and --stdin."""
    words = stdin_worker_command("/python", "tls://a:1", {"workers": "2", "gpus": "none"})
    assert words[:7] == ["/python", "-P", "-m", "workflows", "cluster", "worker", "tls://a:1"]
    assert words[7:] == ["--stdin", "--workers", "2", "--gpus", "none"]
