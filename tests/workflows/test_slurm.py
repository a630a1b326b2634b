"""Workers of a real Slurm of three nodes, by submitted jobs and inside an allocation."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.slurm.cluster import SlurmCluster
from cluster.slurm.profile import read_profile
from tests.commands import PATIENCE, ROOT, committed, free_port, run, saboteur, start, wait_until
from tests.images import contents, make_folder, prepare_inline
from tests.pipeline.loader.test_distributed import PRINT_ROWS
from tests.workflows.test_hosts import TAKE_TIME

TINY = ("--sizes", 8, 16, "--shard-rows", 16, "--chunk-rows", 8, "--no-dashboard")
NODES = 3

CONFIGURATION = """
ClusterName=tesserae
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
CryptoType=crypto/munge
SlurmUser=root
SlurmdUser=root
SlurmctldPort={port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
KillWait=2
OverTimeLimit=0
SlurmdParameters=config_overrides
"""


@dataclass(frozen=True)
class Slurm:
    """A Slurm installation of this test."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that point commands to this Slurm."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def ask(self, *words: str) -> str:
        """Return the output of a Slurm command."""
        done = subprocess.run(
            words, capture_output=True, text=True, check=True, timeout=PATIENCE,
            env={**os.environ, **self.environment},
        )  # fmt: skip
        return done.stdout

    def profile(self, text: str) -> Path:
        """Write a profile for this Slurm with further lines, and return its path."""
        file = self.folder / "profile.yaml"
        file.write_text(f"host: 127.0.0.1\nshared: {self.folder}/shared\n{text}")
        return file


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """Start a Slurm of three nodes with four cores each."""
    tools = ("slurmctld", "slurmd", "munged", "sbatch")
    if os.geteuid() != 0 or not all(map(shutil.which, tools)):
        pytest.skip("needs Debian's slurm-wlm and munge, and root")
    folder = tmp_path_factory.mktemp("slurm")
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    host = os.uname().nodename.partition(".")[0]
    lines = [CONFIGURATION.format(host=host, port=free_port(), folder=folder)]
    lines += [
        f"NodeName=n{i} NodeHostname={host} NodeAddr=127.0.0.1 Port={free_port()} CPUs=4"
        " RealMemory=4000 State=UNKNOWN"
        for i in range(NODES)
    ]
    lines.append("PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP")
    (folder / "slurm.conf").write_text("\n".join(lines) + "\n")
    cluster = Slurm(folder)
    munge_was = subprocess.run(["pgrep", "munged"], check=False, capture_output=True).returncode
    if munge_was:
        key = Path("/etc/munge/munge.key")
        if not key.exists():
            key.write_bytes(os.urandom(1024))
        for path in (key, Path("/run/munge")):
            path.mkdir(exist_ok=True) if path.suffix == "" else path.chmod(0o400)
            shutil.chown(path, "munge", "munge")
        subprocess.run(["su", "-s", "/bin/sh", "munge", "-c", shutil.which("munged")], check=True)
    environment = {**os.environ, **cluster.environment}
    daemons = [["slurmctld", "-D"], *(["slurmd", "-D", "-N", f"n{i}"] for i in range(NODES))]
    processes = [
        subprocess.Popen(
            words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for words in daemons
    ]
    try:
        assert wait_until(lambda: _idle(cluster) == NODES)
        yield cluster
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(PATIENCE)
        if munge_was:
            subprocess.run(["pkill", "munged"], check=False)


def _idle(slurm: Slurm) -> int:
    try:
        return slurm.ask("sinfo", "--noheader", "--Node", "--states=idle").count("idle")
    except subprocess.CalledProcessError:
        return 0


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write images for a store of 70 shards."""
    return make_folder(tmp_path_factory.mktemp("source") / "train", 1_120)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, source: Path) -> dict[str, bytes]:
    """Return the files of a store that was prepared on this machine."""
    folder = tmp_path_factory.mktemp("alone")
    done = run("prepare", source, folder / "store", *TINY, scratch=folder)
    assert done.status == 0, done.err
    return contents(folder / "store")


SBATCH = """
import os, subprocess, sys
script = sys.argv[-1]
folder = os.environ["FAKE_SLURM"]
number = str(1 + len(os.listdir(folder)))
environment = os.environ | {"SLURM_JOB_ID": number}
job = subprocess.Popen(["bash", script], env=environment, start_new_session=True,
    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
open(f"{folder}/{number}", "w").write(str(job.pid))
print(number)
"""
SQUEUE = """
import os
folder = os.environ["FAKE_SLURM"]
for number in os.listdir(folder):
    pid = open(f"{folder}/{number}").read()
    try:
        dead = open(f"/proc/{pid}/stat").read().split()[2] == "Z"
    except FileNotFoundError:
        dead = True
    if not dead:
        print(number, "R")
"""
SCANCEL = """
import os, signal, sys
folder = os.environ["FAKE_SLURM"]
for number in sys.argv[1:]:
    try:
        os.killpg(int(open(f"{folder}/{number}").read()), signal.SIGTERM)
    except ProcessLookupError:
        pass
"""


@pytest.fixture
def fake_slurm(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which Slurm's jobs are processes of this machine."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "queue").mkdir()
    for name, code in (("sbatch", SBATCH), ("squeue", SQUEUE), ("scancel", SCANCEL)):
        file = tmp_path / "bin" / name
        file.write_text(f"#!{sys.executable}\n{code}")
        file.chmod(0o755)
    return {
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "FAKE_SLURM": str(tmp_path / "queue"),
        "TESSERAE_SLURM_TEST": str(tmp_path),
    }


EAGER = """
def eager(module):
    module.MAINTENANCE_INTERVAL_SECONDS = 0.5

after_import("cluster.slurm.cluster", eager)

def short(module):
    module.HORIZON_SECONDS = 1.0

after_import("cluster.slurm.load", short)
"""


@pytest.mark.slow
def test_the_number_of_jobs_follows_the_work(
    fake_slurm: dict[str, str], tmp_path: Path, source: Path, expected: dict[str, bytes]
) -> None:
    """One job is submitted at first, more for queued tasks, and none remains at the end."""
    file = tmp_path / "profile.yaml"
    file.write_text(
        f"host: 127.0.0.1\nshared: {tmp_path}/shared\n"
        "jobs:\n  cpu: {count: 3, least: 1, cores: 1, memory: 1GB}\n"
    )
    words = ("prepare", source, tmp_path / "store", *TINY, "--cluster", f"slurm:{file}")
    long = TAKE_TIME.replace("1.5", "4 if words[1] == 69 else 0.1")  # the last of all
    with saboteur(tmp_path / "slow", EAGER + long) as slow:
        done = run(*words, scratch=tmp_path, extra_path=slow, seconds=150, **fake_slurm)
    assert done.status == 0, done.err + done.out
    assert done.out.count("submitted job") >= 2
    assert "is cancelled" in done.out
    assert contents(tmp_path / "store") == expected
    assert wait_until(lambda: not left_over(str(tmp_path)))


def left_over(mark: str) -> list[psutil.Process]:
    """Return the processes of workers that still run."""
    processes = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TESSERAE_SLURM_TEST") == mark:
                processes.append(process)
        except psutil.Error:
            pass
    return [p for p in processes if p.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture(params=["node", "charliecloud"])
def container(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the line of a profile for workers on the node itself, or in an image.

    The image is an empty tree, in which the folders that the workers need are mounted.
    """
    if request.param == "node":
        return ""
    if shutil.which("ch-run") is None:
        pytest.skip("needs Debian's charliecloud")
    image = tmp_path_factory.mktemp("image")
    python = Path(sys.base_prefix)
    shared = tmp_path_factory.getbasetemp()
    mounts = [
        Path("/usr"),
        ROOT,
        Path(sys.prefix),
        shared,
        *([] if python == Path("/usr") else [python]),
    ]
    for folder in (*mounts, Path("/etc"), Path("/dev"), Path("/proc"), Path("/sys"), Path("/tmp")):
        (image / folder.relative_to("/")).mkdir(parents=True, exist_ok=True)
    for name in ("bin", "lib", "lib64"):
        (image / name).symlink_to(f"usr/{name}")
    for name in ("passwd", "group", "hosts", "resolv.conf"):
        (image / "etc" / name).touch()
    binds = [f"--bind={folder}:{folder}" for folder in mounts]
    words = ["env", "USER=root", "ch-run", *binds, str(image), "--"]
    subprocess.run([*words, "test", "!", "-e", "/etc/shadow"], check=True)  # the image's own /etc
    return f"container: {shlex.join(words)}\n"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_jobs_that_reach_their_walltime_are_submitted_again(
    slurm: Slurm, container: str, source: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    """Jobs end within shards; the bytes are the same, and the queue is empty at the end."""
    job = "{count: 1, cores: 1, memory: 1GB, walltime: '00:01:00'}"
    file = slurm.profile(f"{container}jobs:\n  cpu: {job}\n")
    store = tmp_path / "store"
    with saboteur(tmp_path / "slow", TAKE_TIME) as slow:
        done = run(
            *("prepare", source, store, *TINY, "--cluster", f"slurm:{file}"),
            scratch=tmp_path,
            extra_path=slow,
            seconds=300,
            TESSERAE_SLURM_TEST="jobs",
            **slurm.environment,
        )
    assert done.status == 0, done.err + done.out
    assert re.search(r"job \d+ has ended\n.*submitted job \d+", done.out, re.DOTALL)
    assert contents(store) == expected
    assert wait_until(lambda: not slurm.ask("squeue", "--noheader"))
    assert not left_over("jobs")
    assert not list((slurm.folder / "shared").iterdir())


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_an_interrupted_command_cancels_its_jobs(
    slurm: Slurm, container: str, source: Path, tmp_path: Path
) -> None:
    """The command is stopped with Ctrl-C, and no worker remains."""
    file = slurm.profile(f"{container}jobs:\n  cpu: {{count: 2, cores: 1, memory: 1GB}}\n")
    words = ("prepare", source, tmp_path / "store", *TINY, "--cluster", f"slurm:{file}")
    with saboteur(tmp_path / "slow", TAKE_TIME) as slow:
        environment = {"TESSERAE_SLURM_TEST": "stopped", **slurm.environment}
        with start(*words, scratch=tmp_path, extra_path=slow, **environment) as command:
            assert wait_until(lambda: committed(tmp_path / "store") > 0), command.err
            command.process.send_signal(signal.SIGINT)
            assert command.wait() == 130
            assert wait_until(lambda: not slurm.ask("squeue", "--noheader"))
            assert wait_until(lambda: not left_over("stopped"))


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_one_allocation_runs_scheduler_command_and_workers(
    slurm: Slurm, source: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    """All are started by srun, and the job ends with the command."""
    file = slurm.profile("way: allocation\n")
    words = ["prepare", source, tmp_path / "store", *TINY, "--workers", 1]
    words += ["--cluster", f"slurm:{file}"]
    command = " ".join([sys.executable, "-m", "workflows", *map(str, words)])
    script = tmp_path / "prepare.sh"
    script.write_text(
        f"#!/bin/bash\n#SBATCH -N{NODES} --ntasks-per-node=1 -o {tmp_path}/out\n"
        f"cd {ROOT}\nexport TESSERAE_SLURM_TEST=allocation\nsrun {command}\n"
        f"echo ended $? > {tmp_path}/ended\n"
    )
    slurm.ask("sbatch", str(script))
    assert wait_until((tmp_path / "ended").exists, 2 * PATIENCE), (tmp_path / "out").read_text()
    assert (tmp_path / "ended").read_text() == "ended 0\n", (tmp_path / "out").read_text()
    assert contents(tmp_path / "store") == expected
    assert wait_until(lambda: not left_over("allocation"))


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_ranks_of_srun_read_disjoint_rows(slurm: Slurm, tmp_path: Path) -> None:
    """Ranks of a step share the rows; a batch script, which is not a step, reads all of them."""
    store = tmp_path / "store"
    prepare_inline(
        make_folder(tmp_path / "train", 48), str(store), sizes=(8,), shard_rows=16, chunk_rows=4
    )
    (tmp_path / "train.py").write_text(PRINT_ROWS)
    command = f"{sys.executable} {tmp_path}/train.py {store}"
    script = tmp_path / "train.sh"
    script.write_text(
        f"#!/bin/bash\n#SBATCH -N2 --ntasks=4 -o {tmp_path}/out\nexport PYTHONPATH={ROOT}\n"
        f"srun {command} > {tmp_path}/step\nsrun -n2 -N1 {command} > {tmp_path}/smaller\n"
        f"{command} > {tmp_path}/alone\ntouch {tmp_path}/ended\n"
    )
    slurm.ask("sbatch", str(script))
    assert wait_until((tmp_path / "ended").exists, 2 * PATIENCE), (tmp_path / "out").read_text()
    for name, ranks in (("step", 4), ("smaller", 2), ("alone", 1)):
        parts = [line.split() for line in (tmp_path / name).read_text().splitlines()]
        assert [len(part) for part in parts] == [48 // ranks] * ranks
        assert {int(row) for part in parts for row in part} == set(range(48))


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_jobs_that_always_fail_end_the_run(slurm: Slurm, source: Path, tmp_path: Path) -> None:
    """Three jobs that end at once are reported with their logs."""
    file = slurm.profile(
        "python: /nowhere/python\njobs:\n  cpu: {count: 1, cores: 1, memory: 1GB}\n"
    )
    words = ("prepare", source, tmp_path / "store", *TINY, "--cluster", f"slurm:{file}")
    started = time.monotonic()
    done = run(*words, scratch=tmp_path, seconds=150, **slurm.environment)
    assert done.status == 1
    assert "end immediately after they start" in done.err
    assert time.monotonic() - started < 120
    assert wait_until(lambda: not slurm.ask("squeue", "--noheader"))


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_the_container_of_a_profile_is_one_command(
    slurm: Slurm, source: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    """The words of the profile come before the interpreter, also those with spaces."""
    program = tmp_path / "run in image"
    program.write_text(f'#!/bin/sh\necho "$1 $2" >> {tmp_path}/started\nshift 2\nexec "$@"\n')
    program.chmod(0o755)
    file = slurm.profile(
        f'container: \'"{program}" --image "an image"\'\n'
        "jobs:\n  cpu: {count: 1, cores: 1, memory: 1GB}\n"
    )

    done = run(
        *("prepare", source, tmp_path / "store", *TINY, "--cluster", f"slurm:{file}"),
        scratch=tmp_path,
        seconds=150,
        TESSERAE_SLURM_TEST="container",
        **slurm.environment,
    )

    assert done.status == 0, done.err + done.out
    assert contents(tmp_path / "store") == expected
    assert (tmp_path / "started").read_text() == "--image an image\n"
    assert wait_until(lambda: not slurm.ask("squeue", "--noheader"))
    assert wait_until(lambda: not left_over("container"))


MEMORY = {
    "": None,
    ", memory: null": None,
    ", memory: 0": "--mem=0",
    ", memory: '0'": "--mem=0",
    ", memory: 64GB": "--mem=60G",
    ", memory: 64 GiB": "--mem=64G",
    ", memory: 500MB": "--mem=477M",
}


@pytest.mark.parametrize(("memory", "line"), MEMORY.items())
def test_a_job_requests_memory_only_if_its_profile_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: str, line: str | None
) -> None:
    """Many sites forbid the line; 0 requests all memory of a node."""
    file = tmp_path / "profile.yaml"
    file.write_text(f"shared: {tmp_path}\njobs: {{cpu: {{count: 1, cores: 2{memory}}}}}\n")
    profile = read_profile(file)
    scripts: list[str] = []

    async def start(job: Any) -> None:
        scripts.append(job.job_script())
        job.job_id = "7"

    monkeypatch.setattr("dask_jobqueue.slurm.SLURMJob.start", start)
    jobs = SlurmCluster.__new__(SlurmCluster)
    jobs._profile, jobs._folder = profile, tmp_path
    monkeypatch.setattr(SlurmCluster, "address", "tls://10.0.0.1:8786")
    assert jobs.submit("cpu") == "7"
    lines = [row.split(" ")[1] for row in scripts[0].splitlines() if "--mem" in row]
    assert lines == ([] if line is None else [line])
    assert "--cpus-per-task=2" in scripts[0]
    # A job runs in the folder that it was submitted in, which may have modules of our names.
    assert f"{sys.executable} -P -m workflows cluster worker" in scripts[0]


def test_an_allocation_requires_srun(tmp_path: Path) -> None:
    """A command outside of a step is a one-line error."""
    file = tmp_path / "profile.yaml"
    file.write_text("way: allocation\n")
    make_folder(tmp_path / "source" / "train", 2)
    words = ("prepare", tmp_path / "source", tmp_path / "s", "--cluster", f"slurm:{file}")
    done = run(*words, scratch=tmp_path)
    assert (done.status, "needs a Slurm step" in done.err) == (1, True)


@pytest.mark.slow
def test_the_first_node_of_an_allocation_has_workers(tmp_path: Path) -> None:
    """A single node does all the work; its workers and certificates end with the command.

    The test sets the variables that srun sets for a process.
    """
    source = make_folder(tmp_path / "source" / "train", 40)
    file = tmp_path / "profile.yaml"
    file.write_text(f"way: allocation\nhost: 127.0.0.1\nshared: {tmp_path}/shared\n")
    words = ("prepare", source.parent, tmp_path / "s", *TINY, "--workers", 1)
    step = {
        "SLURM_PROCID": "0",
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": "1",
        "TESSERAE_SLURM_TEST": str(tmp_path),
    }
    done = run(*words, "--cluster", f"slurm:{file}", scratch=tmp_path, **step)
    assert (done.status, done.err) == (0, "")
    assert committed(tmp_path / "s") == 3
    assert not list((tmp_path / "shared").iterdir())
    assert wait_until(lambda: not left_over(str(tmp_path)))
