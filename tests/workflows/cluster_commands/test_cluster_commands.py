"""A running cluster: started, used, inspected and stopped by commands."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from cluster.processes import daemon
from tests.commands import (
    PATIENCE,
    ROOT,
    Command,
    CommandResult,
    free_port,
    run,
    saboteur,
    start,
    wait_until,
)
from tests.images import contents, make_folder
from tests.workflows.runs.test_train import SMALL
from tests.workflows.training.small import small_store
from workflows import cli

TINY = ("--sizes", 8, 16, "--shard-rows", 16, "--chunk-rows", 8, "--no-dashboard")


class Standing:
    """A scheduler and two workers that `tesserae cluster up` has started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.address = f"tls://127.0.0.1:{self.port}"
        self.certs = folder / "certs"

    def run(self, *words: object, **options: object) -> CommandResult:
        """Run `tesserae WORDS` with the certificates of the cluster."""
        return run(*words, scratch=self.folder, TESSERAE_CERTS=str(self.certs), **options)

    def cluster(self, word: str, *words: object) -> CommandResult:
        """Run `tesserae cluster WORD` on the cluster."""
        return self.run("cluster", word, *words, "--state", self.folder / "state")

    def up(self) -> CommandResult:
        """Start the cluster, which keeps running after the command has ended."""
        words = (
            *("cluster", "up", "--port", self.port, "--dashboard-port", free_port()),
            *("--workers", 2, "--gpus", "none", "--scratch", self.folder / "scratch"),
            *("--state", self.folder / "state"),
        )
        done = subprocess.run(
            [sys.executable, "-m", "workflows", *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TESSERAE_CERTS": str(self.certs)},
        )
        return CommandResult(done.returncode, done.stdout, done.stderr)

    def processes(self) -> list[psutil.Process]:
        """Return the live processes of this cluster, which share its certificates."""
        processes = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("TESSERAE_CERTS") == str(self.certs):
                    processes.append(process)
            except psutil.Error:
                pass
        return [p for p in processes if p.status() != psutil.STATUS_ZOMBIE]

    @contextmanager
    def worker(self, *within: str, extra_path: Path | None = None) -> Iterator[Command]:
        """Run one more worker inside the block."""
        words = ("cluster", "worker", self.address, "--workers", 1, "--gpus", "none")
        with start(
            *words,
            scratch=self.folder,
            within=within,
            extra_path=extra_path,
            TESSERAE_CERTS=str(self.certs),
        ) as command:
            waited = self.run("cluster", "wait", self.address, "--workers", 3)
            assert waited.status == 0, waited.err
            yield command
        assert wait_until(lambda: self.workers() == 2)

    def workers(self) -> int:
        """Return the current number of workers."""
        status = self.run("cluster", "status", self.address).out
        return int(status.split(": ", 1)[1].split()[0])


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    """Start a cluster for all tests that leave it unchanged."""
    cluster = Standing(tmp_path_factory.mktemp("standing"))
    try:
        done = cluster.up()
        assert done.status == 0, done.err
        assert f"CLUSTER={cluster.address}" in done.out
        assert "ssh -N -L" in done.out
        yield cluster
    finally:
        cluster.cluster("down")
        assert wait_until(lambda: not cluster.processes())


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a few images."""
    return make_folder(tmp_path_factory.mktemp("source") / "train", 80)


@pytest.mark.slow
def test_a_shared_cluster_gives_the_same_bytes(
    standing: Standing, source: Path, tmp_path: Path
) -> None:
    """No notice is printed, since all versions are equal."""
    done = standing.run("prepare", source, tmp_path / "store", *TINY, "--cluster", standing.address)
    assert (done.status, done.err) == (0, "")
    assert "notice" not in done.out

    alone = run("prepare", source, tmp_path / "alone", *TINY, scratch=tmp_path)
    assert alone.status == 0, alone.err
    assert contents(tmp_path / "store") == contents(tmp_path / "alone")


def test_status_lists_all_open_ports_which_are_local(
    standing: Standing,
) -> None:
    """The ports are those of scheduler, dashboard, nannies, workers and their metrics."""
    printed = standing.cluster("status")
    assert printed.status == 0, printed.err
    lines = [line.split() for line in printed.out.splitlines() if "this machine only" in line]
    named = {line[1] for line in lines}
    open_ = {
        f"{entry.laddr.ip}:{entry.laddr.port}"
        for process in standing.processes()
        for entry in process.net_connections("inet")
        if entry.status == psutil.CONN_LISTEN
    }
    assert named == open_
    assert len(named) == 8
    assert all(name.startswith("127.0.0.1:") for name in named)
    assert "purpose unknown" not in printed.out
    assert "reachable from other machines" not in printed.out


@pytest.mark.slow
def test_the_doctor_lists_open_ports(standing: Standing) -> None:
    """The doctor lists the same ports as `cluster status`, without advice."""
    done = standing.run("doctor", "--cluster", standing.address, "--json")
    lines = [f for f in json.loads(done.out)["findings"] if f["subject"] == "cluster"]
    assert len(lines) == 8
    assert {line["state"] for line in lines} == {"ok"}
    nobody = standing.run("doctor", "--cluster", "tls://127.0.0.1:1")
    assert "does not answer" in nobody.out


def test_a_port_in_use_is_reported_at_once(standing: Standing) -> None:
    """The scheduler is not restarted again and again."""
    done = standing.run("cluster", "scheduler", "--port", standing.port)
    assert done.status == 1
    assert f"cannot listen on 127.0.0.1:{standing.port}" in done.err


def test_status_prints_the_dashboard_url(standing: Standing) -> None:
    """The output also has the ssh command that forwards it to another machine."""
    printed = standing.cluster("status").out
    assert "dashboard: http://127.0.0.1:" in printed
    assert "ssh -N -L" in printed


@pytest.mark.slow
def test_renewed_certificates_replace_all_old_ones(tmp_path: Path) -> None:
    """An invalid renewal changes no file."""
    certs = tmp_path / "certs"
    seen = []
    for words in ((), ("--renew",), ("--renew", "--days", 0)):
        run("cluster", "certs", "--certs", certs, *words, scratch=tmp_path)
        seen.append({path.name: path.read_bytes() for path in certs.iterdir()})
    old, new, last = seen
    assert old.keys() == new.keys()
    assert all(old[name] != new[name] for name in old)
    assert last == new
    modes = {stat.S_IMODE((certs / f"{role}.key").stat().st_mode) for role in ("client", "worker")}
    assert modes == {0o600}


def test_keys_are_private(standing: Standing) -> None:
    """Only their user can read the keys and list the folder."""
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in standing.certs.iterdir()}
    assert {name for name, mode in modes.items() if mode == 0o600} == {
        "scheduler.key", "worker.key", "client.key", "token",
    }  # fmt: skip
    assert stat.S_IMODE(standing.certs.stat().st_mode) == 0o700


def test_a_cluster_is_not_started_twice(standing: Standing) -> None:
    """The certificates of a running cluster are not replaced either."""
    again = standing.up()
    assert again.status == 1
    assert "is already running" in again.err
    assert "tesserae cluster down" in again.err
    renewed = standing.run("cluster", "certs")
    assert (renewed.status, "already holds certificates" in renewed.err) == (1, True)


@pytest.mark.slow
def test_ended_workers_and_schedulers_are_restarted(standing: Standing) -> None:
    """The supervisor restarts killed processes, and workers whose scheduler has ended."""
    serving = [p for p in standing.processes() if _serves(p, "worker")]
    assert len(serving) == 1
    serving[0].send_signal(signal.SIGKILL)
    assert wait_until(lambda: [p for p in standing.processes() if _serves(p, "worker")] != serving)
    assert wait_until(lambda: standing.workers() == 2)

    schedulers = [p for p in standing.processes() if _serves(p, "scheduler")]
    schedulers[0].send_signal(signal.SIGKILL)
    assert standing.run("cluster", "wait", standing.address, "--workers", 2).status == 0
    assert [p for p in standing.processes() if _serves(p, "scheduler")] != schedulers


def _serves(process: psutil.Process, role: str) -> bool:
    try:
        return process.cmdline()[1:5] == ["-P", "-m", "cluster.processes.serve", role]
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--workers", 3), "did not have 3 workers (2 connected) within 1 s"),
        (("--gpus", 1), "did not have 1 GPU (0 connected) within 1 s"),
    ],
)
def test_missing_workers_are_reported_after_a_timeout(
    standing: Standing, words: tuple[object, ...], says: str
) -> None:
    """The error has the expected and the actual number."""
    done = standing.run("cluster", "wait", standing.address, *words, "--timeout", 1)
    assert (done.status, done.out) == (1, "")
    assert says in done.err


@pytest.mark.slow
def test_a_worker_with_other_code_is_refused(
    standing: Standing, source: Path, tmp_path: Path
) -> None:
    """Commands stop before they list or train, whichever tree of the worker differs.

    The defaults of an optimiser are in `workflows/`, and ranks would take other steps with them.
    """
    modified_tree = tmp_path / "other"
    # The whole of it: a part, before the others on the module path, is refused by the command.
    for name in ("pipeline", "workflows", "cluster"):
        shutil.copytree(ROOT / name, modified_tree / name)
    for module in ROOT.glob("tesserae*.py"):
        shutil.copy(module, modified_tree)
    defaults = modified_tree / "workflows" / "training" / "options.py"
    defaults.write_text(defaults.read_text() + "# another line\n")
    on_it = ("--no-dashboard", "--cluster", standing.address)
    commands = (
        ("prepare", source, tmp_path / "store", *TINY[:-1]),
        ("train", "wgan", small_store(tmp_path / "small"), "--run", tmp_path / "run", *SMALL[:-1]),
    )
    with standing.worker(extra_path=modified_tree):
        for words in commands:
            done = standing.run(*words, *on_it)
            assert done.status == 1
            assert "runs another version of Tesserae: its workflows/ differs" in done.err
            assert done.err.count("\n") == 1
    assert not (tmp_path / "store").exists()
    assert not (tmp_path / "run").exists()


OTHER_NUMPY = """
def change(module):
    version = module.version
    module.version = lambda name: "1.0" if name == "numpy" else version(name)

after_import("importlib.metadata", change)
"""


@pytest.mark.slow
def test_differing_versions_are_notices(standing: Standing, source: Path, tmp_path: Path) -> None:
    """A differing package version is a notice; differing pixels are checked separately."""
    with (
        saboteur(tmp_path / "other", OTHER_NUMPY) as patched_path,
        standing.worker(extra_path=patched_path),
    ):
        done = standing.run(
            "prepare", source, tmp_path / "store", *TINY, "--cluster", standing.address
        )
    assert done.status == 0, done.err
    assert "notice: numpy is " in done.out
    assert " here and 1.0 on worker tls://127.0.0.1:" in done.out


@pytest.mark.skipif(
    sys.platform != "linux"
    or os.geteuid() != 0
    or subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode != 0,
    reason="needs root, and mounts of its own",
)
@pytest.mark.slow
@pytest.mark.parametrize("hidden", ["store", "source"])
def test_a_folder_that_a_worker_lacks_is_an_error(
    standing: Standing, source: Path, tmp_path: Path, hidden: str
) -> None:
    """The worker gets no shard, even if it has another folder of the same name."""
    store = tmp_path / "store"
    store.mkdir()
    path = {"store": store, "source": source.parent}[hidden]
    mount = ("unshare", "-m", "sh", "-c", f'mount -t tmpfs none "{path}" && exec "$@"', "sh")
    with standing.worker(*mount):
        done = standing.run("prepare", source, store, *TINY, "--cluster", standing.address)
    assert done.status == 1
    assert "worker tls://127.0.0.1:" in done.err
    assert "Every machine must have" in done.err
    assert str(store if hidden == "store" else source) in done.err
    assert not list((store / "commits").rglob("*.json"))


@pytest.mark.parametrize(
    "spoil", [Path.unlink, pytest.param(lambda path: path.write_text(""), marks=pytest.mark.slow)]
)
def test_a_dashboard_without_its_token_is_not_served(
    tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    """Requests could not be authenticated without the token."""
    certs = tmp_path / "certs"
    assert run("cluster", "certs", "--certs", certs, scratch=tmp_path).status == 0
    spoil(certs / "token")
    words = ("scheduler", "--certs", certs, "--dashboard-host", "0.0.0.0", "--port", free_port())
    done = run("cluster", *words, scratch=tmp_path)
    assert done.status == 1
    assert "the dashboard's token" in done.err


def test_certificates_of_two_authorities_are_not_mixed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Mixed certificates are neither created nor used."""
    first, second = tmp_path / "one", tmp_path / "two"
    for certs in (first, second):
        assert cli.main(["cluster", "certs", "--certs", str(certs)]) == 0
    shutil.copy(second / "ca.pem", first)
    assert cli.main(["cluster", "wait", "tls://127.0.0.1:1", "--certs", str(first)]) == 1
    assert "was not signed by" in capsys.readouterr().err
    (first / "ca.pem").unlink()
    assert cli.main(["cluster", "certs", "--certs", str(first)]) == 1
    assert not (first / "ca.pem").exists()


@pytest.mark.slow
def test_a_worker_of_another_authority_ends_with_a_one_line_error(
    standing: Standing, tmp_path: Path
) -> None:
    """Workers and clients end at once, whatever their timeout."""
    certs = tmp_path / "certs"
    assert run("cluster", "certs", "--certs", certs, scratch=tmp_path).status == 0
    for words in (
        ("worker", standing.address, "--workers", 1, "--gpus", "none"),
        ("wait", standing.address),
        ("status", standing.address),
    ):
        done = run("cluster", *words, "--certs", certs, scratch=tmp_path)
        assert (done.status, done.out) == (1, "")
        assert "presents a certificate of another authority" in done.err
        assert done.err.count("\n") == 1


def test_an_unreachable_scheduler_is_reported_at_once(tmp_path: Path, source: Path) -> None:
    """The notice does not wait for the timeout."""
    address = f"tcp://127.0.0.1:{free_port()}"
    with start(
        *("prepare", source, tmp_path / "s", *TINY, "--cluster", address), scratch=tmp_path
    ) as command:
        assert wait_until(lambda: "does not answer yet (Connection refused)" in command.out)
        command.process.send_signal(signal.SIGINT)
        assert command.wait() == 130


@pytest.mark.parametrize("stop", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_unresponsive_scheduler_times_out(tmp_path: Path, stop: bool) -> None:
    """Ctrl-C ends the wait earlier."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        seconds = 600 if stop else 1
        words = ("cluster", "wait", address, "--insecure", "--timeout", seconds)
        with start(*words, scratch=tmp_path) as command:
            silent.accept()[0].detach()
            if stop:
                command.process.send_signal(signal.SIGINT)
            assert command.wait() == (130 if stop else 1)
            assert ("stopped" if stop else "does not answer") in command.err


def test_a_failed_start_is_cleaned_up(tmp_path: Path) -> None:
    """The port of the scheduler is in use, and no process remains."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        state = ("--state", tmp_path / "state")
        words = ("up", "--port", port, "--certs", tmp_path / "certs", "--workers", 1, *state)
        done = run("cluster", *words, scratch=tmp_path)
        assert done.status == 1
        assert f"cannot listen on 127.0.0.1:{port}" in done.err
        assert "is running" in run("cluster", "down", *state, scratch=tmp_path).out


def test_a_scheduler_does_not_outlive_workers_that_cannot_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The log of the workers cannot be written, and no process remains."""
    monkeypatch.setenv("PYTHONPATH", "")  # set by the command; restored after the test
    state = tmp_path / "state"
    (state / "workers.log").mkdir(parents=True)
    options = {"--certs": tmp_path / "certs", "--state": state, "--workers": 1, "--gpus": "none"}
    options |= {"--port": free_port(), "--dashboard-port": free_port()}
    words = [str(word) for option in options.items() for word in option]
    try:
        assert cli.main(["cluster", "up", *words]) == 1
        assert "workers.log" in capsys.readouterr().err
        assert (state / "scheduler.log").exists()
        assert daemon.process(state, "scheduler") is None
    finally:
        daemon.stop(state, "scheduler")


def test_a_scheduler_of_another_command_is_not_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two commands may start at once: the slower one fails, and the faster one's goes on."""
    monkeypatch.setenv("PYTHONPATH", "")
    state = tmp_path / "state"
    options = {"--certs": tmp_path / "certs", "--state": state, "--workers": 1, "--gpus": "none"}
    options |= {"--port": free_port(), "--dashboard-port": free_port()}
    words = [str(word) for option in options.items() for word in option]
    real_start = daemon.start

    def start_second(folder: Path, name: str, command: list[str]) -> None:
        real_start(folder, name, [sys.executable, "-c", "import time; time.sleep(600)"])
        real_start(folder, name, command)

    monkeypatch.setattr(daemon, "start", start_second)
    try:
        assert cli.main(["cluster", "up", *words]) == 1
        assert "already running" in capsys.readouterr().err
        assert daemon.process(state, "scheduler") is not None
    finally:
        daemon.stop(state, "scheduler")


def test_an_invalid_cluster_address_is_refused(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error is raised before the source is read."""
    for where in ("nowhere", "http://127.0.0.1:8786", "tcp://127.0.0.1", "tcp://127.0.0.1:x"):
        status = cli.main(["prepare", str(source), str(tmp_path / "s"), "--cluster", where])
        printed = capsys.readouterr()
        assert (status, printed.out) == (1, "")
        assert f"{where!r} is not the address of a scheduler" in printed.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("scheduler", "--host", "0.0.0.0"),
            "without certificates runs code for anyone who can reach it",
        ),
        (("scheduler", "--dashboard-host", "0.0.0.0"), "exposes code, logs and paths to anyone"),
        (("worker", "tcp://10.0.0.1:8786", "--host", "10.0.0.2"), "a worker on 10.0.0.2 without"),
        (("worker", "tls://10.0.0.1:8786"), "requires a certificate"),
        (
            ("worker", "tcp://127.0.0.1:1", "--workers", "0", "--gpus", "none"),
            "expected at least 1, or GPUs",
        ),
        (("worker", "tcp://127.0.0.1:1", "--gpus", ""), "--gpus is ''"),
        (("worker", "tcp://127.0.0.1:1", "--gpus", "0,0"), "--gpus is '0,0'"),
        (("worker", "tcp://127.0.0.1:1", "--gpus", "99"), "--gpus is '99': expected all, none, or"),
        (
            ("worker", "tcp://127.0.0.1:1", "--host", "192.0.2.1", "--insecure"),
            "--host is 192.0.2.1",
        ),
        (("worker", "tcp://127.0.0.1:1/"), "is not the address of a scheduler"),
        (("scheduler", "--dashboard-host", "::1"), "IPv4 only"),
        (("worker", "tcp://127.0.0.1:1", "--lifetime", "soon"), "--lifetime is 'soon'"),
        (
            ("worker", "tcp://127.0.0.1:1", "--scratch", "/proc/no"),
            "--scratch is /proc/no: cannot write",
        ),
        (("worker", "tcp://nowhere.invalid:1", "--insecure"), "the host name 'nowhere"),
        (("certs", "--certs", "/dev/null"), "/dev/null: Not a directory"),
        (("certs", "--days", "0"), "--days is 0"),
        (("scheduler", "--dashboard-port", "70000"), "--dashboard-port is 70000"),
        (("wait", "tcp://127.0.0.1:1", "--timeout", "nan"), "--timeout is nan"),
        (("units", ".", "--address", "foo"), "is not the address of a scheduler"),
        (("units", ".", "--address", "tls://127.0.0.1:1", "--certs", "/a b"), "expected no spaces"),
    ],
)
def test_public_ports_need_certificates_or_insecure(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    says: str,
) -> None:
    """Other invalid arguments are reported at once, too."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert cli.main(["cluster", *words]) == 1
    assert says in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("host", ["0.0.0.0", "::1"])
def test_insecure_and_ipv6_addresses_are_accepted(tmp_path: Path, host: str) -> None:
    """The scheduler listens on all interfaces, or on an IPv6 address."""
    words = ("--host", host, "--insecure", "--port", free_port(), "--dashboard-port", free_port())
    with start("cluster", "scheduler", *words, scratch=tmp_path) as command:
        assert wait_until(lambda: "Scheduler at:" in command.err)
        assert command.running()
