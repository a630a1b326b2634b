"""A run that continues after any fault gives the store of an undisturbed run.

Real processes are killed from outside, and source and disk really fail.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.images.rejection import STATUS_WORDS
from pipeline.store import arrays, records, table
from pipeline.store.open import open_objects
from tests.commands import Command, committed, run, saboteur, start, wait_until
from tests.images import contents, jpeg, linked_folder, make_folder, prepare_inline
from workflows.cli import main

SMALL = ("--shard-rows", 32, "--no-dashboard")
WIDE = ("--sizes", 72, *SMALL)
SMALL_OPTIONS = ("--sizes", 72, "--shard-rows", 8, "--chunk-rows", 8, "--no-dashboard")
TINY = (*SMALL, "--sizes", 16, 24)
TINY_CHOICES: dict[str, Any] = {"sizes": (16, 24), "shard_rows": 32, "chunk_rows": 16}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return images that take a few milliseconds each: photographs if available."""
    named = os.environ.get("TESSERAE_DATA")
    if named:
        return sorted(Path(named).glob("imagenet/train/*/*.JPEG"))
    folder = tmp_path_factory.mktemp("originals")
    for seed in range(24):
        (folder / f"{seed}.JPEG").write_bytes(jpeg(seed, 700, 500))
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, originals: list[Path]) -> Path:
    """Write links to photographs for a store of 25 shards."""
    return linked_folder(tmp_path_factory.mktemp("source") / "train", originals, 800)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Path:
    """Prepare a store without faults."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = run("prepare", source, folder / "store", *SMALL, "--workers", 2, scratch=folder)
    assert (done.status, done.err) == (0, "")
    return folder / "store"


@pytest.fixture(scope="module")
def expected(undisturbed: Path) -> dict[str, bytes]:
    """Return the files of the undisturbed store, by name."""
    return contents(undisturbed)


@pytest.fixture(scope="module")
def small_source(tmp_path_factory: pytest.TempPathFactory, originals: list[Path]) -> Path:
    """Write links to photographs for 25 shards of 8 rows."""
    return linked_folder(tmp_path_factory.mktemp("few") / "train", originals, 200)


@pytest.fixture(scope="module")
def expected_few(tmp_path_factory: pytest.TempPathFactory, small_source: Path) -> dict[str, bytes]:
    """Return the files of the store of the small source, at one size."""
    store = tmp_path_factory.mktemp("expected-few") / "store"
    prepare_inline(small_source, str(store), sizes=(72,), shard_rows=8, chunk_rows=8)
    return contents(store)


@pytest.fixture(scope="module")
def shard_seconds(undisturbed: Path) -> float:
    """Return the mean time that a shard of the undisturbed store took."""
    commits = records.load_commits(
        open_objects(str(undisturbed)), records.load_plan(open_objects(str(undisturbed)), "train")
    )
    spent = [sum(commit.provenance["seconds"].values()) for commit in commits.values()]
    return sum(spent) / len(spent)


COUNTED = """
import os, time

def counted(module):
    make = module._make_shard

    def _make_shard(space, shard, *words, **options):
        with open({log!r}, "a") as file:
            file.write(f"{{os.getpid()}} {{shard}}\\n")
        time.sleep(0.2)
        return make(space, shard, *words, **options)

    module._make_shard = _make_shard

after_import("pipeline.ingest.shard_task", counted)
"""


@pytest.mark.slow
def test_a_lost_worker_repeats_one_shard_per_thread(
    tmp_path: Path, small_source: Path, expected_few: dict[str, bytes]
) -> None:
    """Only the shards in progress are repeated; queued ones wait in the scheduler."""
    log, store, threads = tmp_path / "begun", tmp_path / "store", 2
    words = ("prepare", small_source, store, *SMALL_OPTIONS, "--workers", 2, "--threads", threads)
    with (
        saboteur(tmp_path / "counted", COUNTED.format(log=str(log))) as slow,
        start(*words, scratch=tmp_path, extra_path=slow) as command,
    ):
        assert wait_until(lambda: committed(store) > 3)
        victim = command.workers()[0]
        victim.kill()
        assert command.wait() == 0, command.err
    begun = [tuple(map(int, line.split())) for line in log.read_text().splitlines()]
    twice = Counter(shard for _, shard in begun) - Counter({shard for _, shard in begun})
    assert len(begun) >= 25
    assert twice.total() <= threads
    assert set(twice) <= {shard for pid, shard in begun if pid == victim.pid}
    assert contents(store) == expected_few


# --- killed ---------------------------------------------------------------------------------------


def break_off(
    command: Command, store: Path, rng: random.Random, seconds: float, shards: int
) -> int:
    """Kill workers repeatedly, then the whole command; return the number of killed workers."""
    enough = rng.uniform(0.1, 0.85) * shards
    max_kills = rng.randint(2, 12)
    killed = 0
    assert wait_until(lambda: committed(store) > 0)
    while committed(store) < enough and killed < max_kills and command.running():
        wait_until(lambda: committed(store) >= enough, rng.uniform(0.2, 3) * seconds)
        if workers := command.workers():
            with suppress(psutil.NoSuchProcess):
                rng.choice(workers).kill()
                killed += 1
    assert wait_until(lambda: committed(store) >= enough or not command.running())
    if rng.random() < 0.5:
        command.signal_all(signal.SIGKILL)
    else:  # as the system does for want of memory: workers and fork server must notice
        command.process.kill()
    if committed(store) == shards:  # it was faster than the kill: another round breaks it
        pytest.skip("the run had ended before it was killed")
    return killed


def check_broken_run(
    tmp_path: Path,
    source: Path,
    expected: dict[str, bytes],
    shard_seconds: float,
    round_: int,
    words: tuple[object, ...] = SMALL,
    extra_path: Path | None = None,
) -> None:
    rng = random.Random(round_)
    store = tmp_path / "store"
    shards = sum(1 for name in expected if "/72/c." in name)
    prepare = ("prepare", source, store, *words, "--workers")
    number = rng.choice([1, 2, 3])
    with start(*prepare, number, scratch=tmp_path, extra_path=extra_path) as broken:
        killed = break_off(broken, store, rng, shard_seconds, shards)
        num_committed = committed(store)
        # At once, while what is left of the other may still run.
        again = run(*prepare, 2, scratch=tmp_path)
        assert (again.status, again.err) == (0, ""), again.out
        assert broken.gone(5), "what was killed left nothing running"
    sys.stderr.write(f"{killed} workers killed, {num_committed} of {shards} shards committed\n")
    assert contents(store) == expected
    assert not list((store / ".tmp").glob("train-*")), "no temp file is left"


def test_a_killed_run_resumes_to_the_same_bytes(
    tmp_path: Path, small_source: Path, expected_few: dict[str, bytes]
) -> None:
    """Workers are killed at random times, and then the whole command."""
    with saboteur(tmp_path / "counted", COUNTED.format(log=str(tmp_path / "begun"))) as slow:
        check_broken_run(tmp_path, small_source, expected_few, 0.2, 148, SMALL_OPTIONS, slow)


@pytest.mark.slow
@pytest.mark.parametrize("round_", range(1, 25))
def test_two_dozen_killed_runs_resume_to_the_same_bytes(
    tmp_path: Path, source: Path, expected: dict[str, bytes], shard_seconds: float, round_: int
) -> None:
    """Each run has another number of workers, other intervals and another end."""
    check_broken_run(tmp_path, source, expected, shard_seconds, round_)


@pytest.mark.slow
@pytest.mark.parametrize("round_", range(4))
def test_a_repeatedly_killed_run_ends_with_the_same_bytes(
    tmp_path: Path, source: Path, expected: dict[str, bytes], round_: int
) -> None:
    """Every run commits at least one shard or ends."""
    rng = random.Random(100 + round_)
    store = tmp_path / "store"
    for _ in range(50):
        before = committed(store)
        with start("prepare", source, store, *SMALL, "--workers", 2, scratch=tmp_path) as command:
            wait_until(lambda b=before: committed(store) > b or not command.running())
            time.sleep(rng.uniform(0, 0.5))
            command.signal_all(signal.SIGKILL)
            status = command.wait()
        if status == 0:
            break
    assert status == 0
    assert contents(store) == expected


@pytest.mark.slow
@pytest.mark.parametrize("round_", range(4))
def test_stale_workers_of_a_killed_run_cannot_write(
    tmp_path: Path, source: Path, expected: dict[str, bytes], round_: int
) -> None:
    """The workers were suspended while the run was killed, and continue after another has ended."""
    rng = random.Random(200 + round_)
    store = tmp_path / "store"
    with start("prepare", source, store, *SMALL, "--workers", 2, scratch=tmp_path) as broken:
        assert wait_until(lambda: committed(store) >= rng.randint(1, 12))
        time.sleep(rng.uniform(0, 0.3))
        ghosts = broken.workers()
        for ghost in ghosts:
            ghost.suspend()
        broken.process.kill()
        again = run("prepare", source, store, *SMALL, "--workers", 2, scratch=tmp_path)
        assert (again.status, again.err) == (0, ""), again.out
        before = stamps(store)
        for ghost in ghosts:
            ghost.resume()
        assert broken.gone(10)
    assert stamps(store) == before
    assert contents(store) == expected


def stamps(store: Path) -> dict[str, tuple[int, int]]:
    """Return (inode, modification time) of each file, without temporary ones."""
    files = (file for file in store.rglob("*") if file.is_file() and ".tmp" not in file.parts)
    return {str(file): (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


# --- images that crash or block their decoder ----------------------------------------------------

DEADLY = """
import ctypes, os, signal

def poison(module):
    decode = module.decode

    def poisoned(data, **options):
        if data.endswith(b"ABORT"):
            os.abort()
        if data.endswith(b"SEGFAULT"):
            os.kill(os.getpid(), signal.SIGSEGV)
        if data.endswith(b"HANG"):
            ctypes.PyDLL(None).pause()  # holds the interpreter's lock
        return decode(data, **options)

    module.decode = poisoned

after_import("pipeline.images.decode", poison)
"""


@pytest.mark.slow
def test_images_that_crash_workers_are_quarantined_alone(tmp_path: Path) -> None:
    """An abort, a segmentation fault and a hang in three shards change only their own rows."""
    source = make_folder(tmp_path / "source", 200)
    deadly = {b"ABORT": "crashed", b"SEGFAULT": "crashed", b"HANG": "timeout"}
    files = sorted(source.rglob("*.JPEG"))[::70]
    keys = [f"{file.parent.name}/{file.name}" for file in files]
    for file, end in zip(files, deadly, strict=True):
        file.write_bytes(file.read_bytes() + end)
    prepare_inline(source, str(tmp_path / "clean"), **TINY_CHOICES)
    with saboteur(tmp_path / "path", DEADLY) as path:
        words = (*TINY, "--workers", 2, "--image-timeout", 1.5, "--max-bad", 1)
        store = tmp_path / "store"
        done = run("prepare", source, store, *words, scratch=tmp_path, extra_path=path)
        assert (done.status, done.err) == (0, "")
        check_quarantine(tmp_path / "clean", store, dict(zip(keys, deadly.values(), strict=True)))
        assert main(["verify", str(store)]) == 0
        # The record of the deadly images is lost: they are detected again, in child processes.
        before = contents(store)
        lines = table.decode_part(before["samples/train.parquet"]).to_pylist()
        row = next(line["row"] for line in lines if line["key"] == keys[0])
        (store / "samples/train.parquet").unlink()
        (store / f"samples/train.parts/{row // 32:06d}.parquet").unlink()
        repaired = run("repair", store, "--workers", 1, scratch=tmp_path, extra_path=path)
        assert (repaired.status, repaired.err) == (0, ""), repaired.out
        assert contents(store) == before


def check_quarantine(clean: Path, store: Path, deadly: dict[str, str]) -> None:
    """Check that only the rows of *deadly* differ from the clean store: zeros with reasons."""
    table_name = "samples/train.parquet"
    actual, reference = contents(store), contents(clean)
    lines = table.decode_part(actual[table_name]).to_pylist()
    bad = {line["row"]: line for line in lines if line["status"]}
    assert {line["key"]: STATUS_WORDS[line["status"]] for line in bad.values()} == deadly
    reference_lines = table.decode_part(reference[table_name]).to_pylist()
    assert [line for line in lines if line["row"] not in bad] == [
        line for line in reference_lines if line["row"] not in bad
    ]
    other_shards = {
        f"images.zarr/train/{size}/c.{shard}.0.0.0"
        for size in (16, 24)
        for shard in set(range(7)) - {row // 32 for row in bad}
    }
    assert other_shards
    assert all(actual[name] == reference[name] for name in other_shards)
    for size in (16, 24):
        for row, (ours, theirs) in enumerate(
            zip(pixels(store, size), pixels(clean, size), strict=True)
        ):
            assert (ours == (0 if row in bad else theirs)).all(), row


def pixels(store: Path, size: int) -> Any:
    """Return all rows of one size, read by zarr."""
    objects = open_objects(str(store))
    plan = records.load_plan(objects, "train")
    return arrays.read_pixel_rows(objects, "train", size, 0, plan.num_rows)


# --- a source that fails --------------------------------------------------------------------------

FAILING = """
import os

def fail(module):
    read = module.SourceReader.read

    def failing(self, path, offset, num_bytes):
        if path.endswith(os.environ["FAILING"]):
            counter = os.environ["COUNTER"]
            with open(counter, "a") as file:
                file.write("x")
            if os.path.getsize(counter) <= int(os.environ["TIMES"]):
                raise module.ReadError(f"cannot read {self.root}/{path}: Input/output error")
        return read(self, path, offset, num_bytes)

    module.SourceReader.read = failing

def hurry(module):
    module.ShardTaskConfig.__init__.__kwdefaults__["retry_delay_seconds"] = 0.01

after_import("pipeline.sources.reader", fail)
after_import("pipeline.ingest.shard_task", hurry)
"""


@pytest.mark.slow
def test_a_temporarily_failing_source_is_retried(tmp_path: Path) -> None:
    """Both the task and Dask retry, and the store is the same."""
    source = make_folder(tmp_path / "source", 100)
    prepare_inline(source, str(tmp_path / "clean"), **TINY_CHOICES)
    done = prepare_failing(tmp_path, source, "_50.JPEG", 9)
    assert (done.status, done.err) == (0, "")
    assert (tmp_path / "counter").stat().st_size == 10
    assert contents(tmp_path / "store") == contents(tmp_path / "clean")


@pytest.mark.slow
def test_a_lost_source_ends_the_run(tmp_path: Path) -> None:
    """The run ends after some shards in a row, not after hours of trying all of them."""
    source = make_folder(tmp_path / "source", 400)
    lost = prepare_failing(tmp_path, source, ".JPEG", 10**6)
    assert lost.status == 1
    assert "8 shards of split 'train' failed. First, prepare-train-0000" in lost.err
    assert lost.err.count("\n") == 1
    assert committed(tmp_path / "store") == 0


@pytest.mark.slow
def test_a_permanently_failing_file_fails_its_shard_alone(tmp_path: Path) -> None:
    """The file is named, no row is quarantined, and the run resumes once the file is readable."""
    source = make_folder(tmp_path / "source", 100)
    store = tmp_path / "store"
    failed = prepare_failing(tmp_path, source, "_50.JPEG", 10**6)
    assert failed.status == 1
    assert "_50.JPEG: Input/output error" in failed.err
    assert failed.err.count("\n") == 1
    assert (tmp_path / "counter").stat().st_size == 12, "four tries in each of three"
    assert committed(store) == 3
    assert not (store / "splits/train.done.json").exists()
    info = run("info", store, scratch=tmp_path)
    assert "quarantine" not in info.out
    again = run("prepare", source, store, *TINY, "--workers", 1, scratch=tmp_path)
    assert (again.status, again.err) == (0, "")
    prepare_inline(source, str(tmp_path / "clean"), **TINY_CHOICES)
    assert contents(store) == contents(tmp_path / "clean")


def prepare_failing(tmp_path: Path, source: Path, name: str, times: int) -> Any:
    """Prepare a source of which the file *name* fails *times* times."""
    with saboteur(tmp_path / "path", FAILING) as path:
        return run(
            *("prepare", source, tmp_path / "store", *TINY, "--workers", 2),
            scratch=tmp_path,
            extra_path=path,
            FAILING=name,
            COUNTER=str(tmp_path / "counter"),
            TIMES=str(times),
        )


# --- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 16 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Fill the disk with a file, and return it."""
    file = folder / "filler"
    with file.open("wb", buffering=0) as out, suppress(OSError):
        while out.write(bytes(64 * 1024)):
            """The write alone fills the disk."""
    return file


def check_unfinished(store: Path, scratch: Path) -> None:
    """Check that `verify` reports an unfinished split, and no damage."""
    verified = run("verify", store, scratch=scratch)
    assert verified.status == 1
    assert "not finished: " in verified.out
    assert "damaged" not in verified.out
    assert "missing" not in verified.out


def test_insufficient_space_is_refused_before_the_first_image(
    tmp_path: Path, small_disk: Path, originals: list[Path]
) -> None:
    """The error names the options that need less space."""
    source = linked_folder(tmp_path / "source", originals, 128)
    store = small_disk / "store"
    refused = run("prepare", source, store, *SMALL, "--sizes", 224, scratch=tmp_path)
    assert refused.status == 1
    assert refused.err.startswith(f"tesserae: not enough free space at {store}: ")
    assert "Free some space, choose fewer --sizes or --encoded, or pass --limit." in refused.err
    assert refused.err.count("\n") == 1
    assert committed(store) == 0


@pytest.mark.slow
def test_a_run_on_a_full_disk_resumes_once_there_is_space(
    tmp_path: Path, small_disk: Path, originals: list[Path]
) -> None:
    """The error is one line, and committed shards stay."""
    source = linked_folder(tmp_path / "source", originals, 600)
    prepare_inline(source, str(tmp_path / "clean"), sizes=(72,), shard_rows=32, chunk_rows=16)
    store = small_disk / "store"
    with start("prepare", source, store, *WIDE, "--workers", 2, scratch=tmp_path) as command:
        assert wait_until(lambda: committed(store) > 1)
        filler = fill(small_disk)
        assert command.wait() == 1
    assert "No space left on device" in command.err
    assert "Free some space, then run the same command again" in command.err
    assert command.err.count("\n") == 1, command.err
    num_committed = committed(store)
    assert 1 < num_committed < 19
    full = run("prepare", source, store, *WIDE, "--workers", 2, scratch=tmp_path)
    assert full.status == 1, "it is refused while there is no room"
    assert full.err.count("\n") == 1
    check_unfinished(store, tmp_path)
    filler.unlink()
    check_unfinished(store, tmp_path)
    again = run("prepare", source, store, *WIDE, "--workers", 2, scratch=tmp_path)
    assert (again.status, again.err) == (0, "")
    assert contents(store) == contents(tmp_path / "clean")


@pytest.mark.slow
@pytest.mark.parametrize("room", [0, 1, 2, 4, 8, 12, 16, 20, 24, 32, 48])
def test_a_disk_that_is_full_at_any_file_leaves_complete_files(
    tmp_path: Path, small_disk: Path, room: int
) -> None:
    """Recipe, plan, labels, rows and metadata are complete or absent."""
    source = make_folder(tmp_path / "source", 40)
    store = small_disk / "store"
    words = ("prepare", source, store, *SMALL, "--sizes", 2, "--workers", 1)
    filler = fill(small_disk)
    os.truncate(filler, max(0, filler.stat().st_size - room * 4096))
    full = run(*words, scratch=tmp_path)
    filler.unlink()
    if full.status:
        assert full.err.count("\n") == 1, full.err
        assert "Errno" not in full.err
    again = run(*words, scratch=tmp_path)
    assert (again.status, again.err) == (0, "")
    prepare_inline(source, str(tmp_path / "clean"), sizes=(2,), shard_rows=32, chunk_rows=16)
    assert contents(store) == contents(tmp_path / "clean")
