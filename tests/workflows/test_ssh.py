"""Workers over ssh: a real sshd, keys, and no leftovers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from cluster.errors import ClusterError
from cluster.ssh import read_hosts
from tests.commands import PATIENCE, committed, free_port, run, start, wait_until
from tests.images import contents, make_folder

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
SSH = shutil.which("ssh")

TINY = ("--sizes", 8, 16, "--shard-rows", 16, "--chunk-rows", 8, "--no-dashboard")


@dataclass(frozen=True)
class Sshd:
    """An sshd of this user, and the PATH with an `ssh` that reaches it."""

    process: subprocess.Popen[bytes]
    path: str

    def descendants(self) -> list[psutil.Process]:
        """Return the processes that the server has started."""
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """Start a server that accepts one key, as host `near` and as host `far`."""
    if SSHD is None or SSH is None or os.geteuid() != 0:
        pytest.skip("needs Debian's openssh-server and openssh-client, and root")
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("host", "user"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(words, check=True)
    shutil.copy(folder / "user.pub", folder / "authorized")
    (folder / "authorized").chmod(0o600)
    Path("/run/sshd").mkdir(exist_ok=True)
    port = free_port()
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nUsePAM no\n"
        f"AuthorizedKeysFile {folder}/authorized\nPasswordAuthentication no\nStrictModes no\n"
        f"PidFile {folder}/pid\nPermitRootLogin prohibit-password\n"
    )
    (folder / "ssh_config").write_text(
        f"Host near far\n HostName 127.0.0.1\n Port {port}\n IdentityFile {folder}/user\n"
        f" StrictHostKeyChecking no\n UserKnownHostsFile {folder}/known\n LogLevel ERROR\n"
    )
    bin_ = folder / "bin"
    bin_.mkdir()
    (bin_ / "ssh").write_text(f'#!/bin/sh\nexec {SSH} -F {folder}/ssh_config "$@"\n')
    (bin_ / "ssh").chmod(0o755)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log
        )
    try:
        assert wait_until(lambda: b"Server listening" in (folder / "log").read_bytes())
        yield Sshd(process, f"{bin_}:{os.environ['PATH']}")
    finally:
        process.terminate()
        process.wait(PATIENCE)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a few images."""
    return make_folder(tmp_path_factory.mktemp("source") / "train", 320)


def hosts_file(folder: Path, *lines: str) -> Path:
    """Write a file of hosts."""
    file = folder / "hosts.txt"
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.mark.slow
def test_ssh_hosts_give_the_same_store_and_keep_no_process(
    sshd: Sshd, source: Path, tmp_path: Path
) -> None:
    """Two hosts take part; none of their processes outlives the command."""
    file = hosts_file(tmp_path, "# two", "near workers=1 gpus=none", "far workers=2 gpus=none")
    where = ("--cluster", f"ssh:{file}")
    done = run(
        "prepare", source, tmp_path / "store", *TINY, *where, scratch=tmp_path, PATH=sshd.path
    )
    assert (done.status, done.err) == (0, "")
    assert not sshd.descendants()

    alone = run("prepare", source, tmp_path / "alone", *TINY, scratch=tmp_path)
    assert alone.status == 0, alone.err
    assert contents(tmp_path / "store") == contents(tmp_path / "alone")


@pytest.mark.parametrize(
    "number", [pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGINT, signal.SIGKILL)]
)
def test_a_stopped_command_leaves_no_process_on_hosts(
    sshd: Sshd, source: Path, tmp_path: Path, number: int
) -> None:
    """The command may not be able to clean up; running it again resumes."""
    where = ("--cluster", f"ssh:{hosts_file(tmp_path, 'near workers=1 gpus=none')}")
    words = ("prepare", source, tmp_path / "store", *TINY, *where)
    with start(*words, scratch=tmp_path, PATH=sshd.path) as command:
        assert wait_until(lambda: committed(tmp_path / "store") > 0), command.err
        command.process.send_signal(number)
        command.wait()
        assert wait_until(lambda: not sshd.descendants())
    assert run(*words, scratch=tmp_path, PATH=sshd.path).status == 0


@pytest.mark.slow
def test_a_lost_host_is_connected_again(sshd: Sshd, tmp_path: Path) -> None:
    """The processes of the broken connection end, and the command reports the loss."""
    from cluster import ssh

    before = os.environ["PATH"]
    os.environ["PATH"] = sshd.path
    try:
        messages: list[str] = []
        hosts = read_hosts(hosts_file(tmp_path, "near workers=1 gpus=none"))
        with (
            ssh.SshCluster(hosts, dashboard=False, report=messages.append) as cluster,
            cluster.client() as client,
        ):
            client.wait_for_workers(1, timeout=60)
            [first] = client.run(os.getpid).values()
            link = cluster._links[0]
            link._process.kill()
            assert wait_until(lambda: not psutil.pid_exists(first))
            link.begun -= ssh.RECONNECT_INTERVAL_SECONDS
            cluster._checked -= ssh.MAINTENANCE_INTERVAL_SECONDS
            cluster.maintain()
            assert messages
            assert wait_until(lambda: client.nthreads() and client.run(os.getpid))
    finally:
        os.environ["PATH"] = before
    assert wait_until(lambda: not sshd.descendants())


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["nowhere.invalid"], "cannot connect to nowhere.invalid"),
        pytest.param(["near python=/nowhere/python gpus=none"], "near: ", marks=pytest.mark.slow),
    ],
)
def test_an_unusable_host_is_named(
    sshd: Sshd, source: Path, tmp_path: Path, lines: list[str], says: str
) -> None:
    """The error has the output of the host, and no process remains."""
    where = ("--cluster", f"ssh:{hosts_file(tmp_path, *lines)}")
    began = time.monotonic()
    done = run("prepare", source, tmp_path / "s", *TINY, *where, scratch=tmp_path, PATH=sshd.path)
    assert done.status == 1
    assert says in done.err
    assert time.monotonic() - began < PATIENCE
    assert wait_until(lambda: not sshd.descendants())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "lists no host"),
        ("# nobody\n\n", "lists no host"),
        ("host speed=9\n", "line 1: 'speed' is invalid"),
        ("host workers=\n", "line 1: 'workers' is invalid"),
        ("host\nhost scratch='/a b\n", "line 2: No closing quotation"),
        ("host workers=many\n", "line 1: workers is 'many': expected a number"),
        ("\n-oProxyCommand=evil\n", "line 2: '-oProxyCommand=evil' is invalid"),
    ],
)
def test_an_invalid_file_of_hosts_is_refused(tmp_path: Path, text: str, says: str) -> None:
    """The error has the line."""
    file = tmp_path / "hosts"
    file.write_text(text)
    with pytest.raises(ClusterError, match=says):
        read_hosts(file)


def test_a_file_of_hosts_has_options_for_each_host(tmp_path: Path) -> None:
    """The options are those of `tesserae cluster worker`."""
    file = hosts_file(tmp_path, "scheduler=10.0.0.1", "me@a workers=4 threads=2  # big", "b")
    profile = read_hosts(file)
    assert profile.scheduler == "10.0.0.1"
    assert [host.name for host in profile.hosts] == ["me@a", "b"]
    assert profile.hosts[0].options == {"workers": "4", "threads": "2"}
    with pytest.raises(ClusterError, match="cannot be read"):
        read_hosts(tmp_path / "nothing")
