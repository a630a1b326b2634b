"""A store on an object store: S3 as emulated by moto, on the loopback address."""

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import StoreBusyError, StoreError
from pipeline.store import arrays, layout, lease, records
from pipeline.store.fingerprint import fingerprint, is_intact
from pipeline.store.open import open_objects
from pipeline.store.remote import RemoteObjects
from tests import commands
from tests.images import SMALL, contents, make_folder, prepare_inline
from tests.inline import repair_inline
from workflows.preparation.verify import verify_split

pytest.importorskip("moto.server")
s3fs = pytest.importorskip("s3fs")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("images"), 6, bad=1)


@pytest.fixture(scope="module")
def local_store(tmp_path_factory: pytest.TempPathFactory, source: Path) -> dict[str, bytes]:
    """Return the contents of the same store on a disk."""
    store = tmp_path_factory.mktemp("local") / "store"
    prepare_inline(source, str(store), **SMALL)
    return contents(store)


@pytest.fixture(scope="module", autouse=True)
def bucket(s3_environment: dict[str, str]) -> None:
    """Create the bucket that contains all stores of this module."""
    s3fs.S3FileSystem().mkdir("bucket")


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Return a prefix that is new for each test."""
    return f"s3://bucket{tmp_path}/store"


def read_all(url: str, names: list[str] | None = None) -> dict[str, bytes]:
    objects = open_objects(url)
    left_out = (".tmp", ".cache", "report.html", "commits", "splits")
    selected = names or [n for n in objects.names("") if n.split("/")[0] not in left_out]
    return {name: objects.get(name) for name in selected}


def problems(url: str) -> list[str]:
    return [problem.name for problem in verify_split(open_objects(url), "train")[1]]


@contextmanager
def broken_at(
    monkeypatch: pytest.MonkeyPatch, index: int, *, arrives: bool
) -> Iterator[Callable[[], int]]:
    """Break the connection at the PUT number *index*, before it is stored or after."""
    numbers = itertools.count()  # PUTs come from several threads: each draws its own
    pipe = RemoteObjects._pipe

    def fail(self: RemoteObjects, name: str, data: bytes, mode: str) -> None:
        number = next(numbers)
        if number != index or arrives:
            pipe(self, name, data, mode)
        if number == index:
            raise StoreError("the line is dead")

    with monkeypatch.context() as patch:
        patch.setattr(RemoteObjects, "_pipe", fail)
        yield lambda: next(numbers)


def check_broken(
    source: Path,
    url: str,
    local_store: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    indices: range,
) -> None:
    for index in indices:
        store = f"{url}-{index}"
        with broken_at(monkeypatch, index, arrives=bool(index % 2)), pytest.raises(StoreError):
            prepare_inline(source, store, **SMALL)
        prepare_inline(source, store, **SMALL)
        assert read_all(store) == local_store
        assert problems(store) == []


def count_puts(source: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> int:
    with broken_at(monkeypatch, -1, arrives=True) as count:
        prepare_inline(source, url, **SMALL)
        return count()


def test_a_remote_store_has_the_same_bytes_as_a_local_one(
    source: Path, url: str, local_store: dict[str, bytes]
) -> None:
    """Zarr reads the remote store, too."""
    prepare_inline(source, url, **SMALL)
    assert read_all(url) == local_store
    assert problems(url) == []
    objects = open_objects(url)
    assert arrays.read_pixel_rows(objects, "train", 16, 0, 6).shape == (6, 16, 16, 3)
    assert arrays.read_small(objects, "train", "status").tolist().count(0) == 5


@pytest.mark.slow
def test_a_run_resumes_after_a_failed_put(
    source: Path, url: str, local_store: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks before the object is stored or after."""
    check_broken(source, url, local_store, monkeypatch, range(5, 25, 11))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_resumes_after_any_failed_put(
    source: Path, url: str, local_store: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every PUT of a run fails once."""
    num_puts = count_puts(source, url, monkeypatch)
    assert num_puts > 20
    check_broken(source, url, local_store, monkeypatch, range(num_puts))


def test_one_of_several_planners_wins(url: str) -> None:
    """Exclusive creation gives each name exactly one winner."""
    barrier = threading.Barrier(4)
    won: list[str] = []

    def plan(me: int) -> None:
        objects = open_objects(url)
        for number in range(8):
            barrier.wait()
            if objects.put_new(f"splits/{number}.json", b"%d" % me):
                won.append(f"{number} {me}")

    threads = [threading.Thread(target=plan, args=(me,)) for me in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [line.split()[0] for line in won] == [str(number) for number in range(8)]
    for line in won:
        number, me = line.split()
        assert open_objects(url).get(f"splits/{number}.json") == me.encode()


def test_one_run_holds_the_lease_of_a_split(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run holds the lease until it ends or stops renewing it."""
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.01)
    objects = open_objects(url)
    with lease.lease(objects, "train", wait=False):
        with (
            pytest.raises(StoreBusyError, match="process"),
            lease.lease(open_objects(url), "train", wait=False),
        ):
            pass
        with lease.lease(objects, "val", wait=False):
            pass
    assert objects.names(".tmp") == []
    dead = {"id": "x", "holder": "a process that died", "expires": time.time() - 1}
    objects.put(".tmp/train.lease.json", json.dumps(dead).encode())
    with lease.lease(objects, "train", wait=False):
        assert b"died" not in objects.get(".tmp/train.lease.json")


def test_a_run_that_lost_its_lease_does_not_remove_the_next_ones(url: str) -> None:
    """The machine of the run was suspended for longer than a lease lasts."""
    objects = open_objects(url)
    record = {"id": "x", "holder": "another process", "expires": time.time() + 60}
    with lease.lease(objects, "train", wait=False):
        objects.put(".tmp/train.lease.json", json.dumps(record).encode())
    assert json.loads(objects.get(".tmp/train.lease.json")) == record


@pytest.mark.slow
def test_a_shard_of_any_length_is_stored_completely(url: str) -> None:
    """A shard may take several requests, or replace a longer object."""
    objects = open_objects(url)
    for length in (120_000_000, 3):
        data = np.random.default_rng(length).bytes(length)
        writer = objects.create("shard")
        writer.write(memoryview(data))
        assert objects.size("shard") != length
        writer.finish()
        assert is_intact(objects, fingerprint("shard", data))


@pytest.mark.slow
def test_damage_of_a_remote_store_is_found_and_repaired(
    source: Path, url: str, local_store: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A changed byte, a wrong length and a missing object are repaired."""
    prepare_inline(source, url, **SMALL)
    objects = open_objects(url)
    shard = layout.shard("train", 16, 1)
    objects.put(shard, bytes([local_store[shard][0] ^ 1]) + local_store[shard][1:])
    objects.put(layout.part("train", 0), local_store[layout.part("train", 0)][:-1])
    objects.remove(layout.plan("train"))
    objects.remove(layout.done("train"))
    assert set(problems(url)) == {
        shard,
        layout.part("train", 0),
        layout.plan("train"),
        layout.done("train"),
    }
    assert repair_inline(monkeypatch, url) == 0
    assert read_all(url) == local_store
    assert problems(url) == []


@pytest.mark.slow
def test_a_size_can_be_added_to_a_remote_store(
    source: Path, url: str, local_store: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A further size leaves the objects of the first one unchanged."""
    prepare_inline(source, url, sizes=(8,), serves=16, **SMALL)
    before = s3fs.S3FileSystem(use_listings_cache=False).find(url, detail=True)
    prepare_inline(source, url, **SMALL)
    assert read_all(url) == local_store
    after = s3fs.S3FileSystem(use_listings_cache=False).find(url, detail=True)
    first = [name for name in before if "/images.zarr/train/8/" in name or ".parts/" in name]
    assert len(first) == 5
    assert all(before[name]["LastModified"] == after[name]["LastModified"] for name in first)


def test_an_unreachable_bucket_is_a_one_line_error(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing bucket and missing credentials are explained."""
    with pytest.raises(StoreError, match="no store at s3://no-such-bucket"):
        records.load_recipe(open_objects("s3://no-such-bucket/x"))
    with pytest.raises(StoreError, match="cannot write s3://no-such-bucket/x/a"):
        open_objects("s3://no-such-bucket/x").put("a", b"x")

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no credentials")

    objects = open_objects(url)
    monkeypatch.setattr(objects, "_files", type("Files", (), dict.fromkeys(FACE, refuse))())
    for call in (objects.get, objects.open, objects.size, objects.names):
        with pytest.raises(StoreError, match=r"cannot (read|list) .*: RuntimeError: no credent"):
            call("a")


FACE = ("cat_file", "open", "info", "find")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_commands_prepare_extend_verify_and_repair_a_remote_store(
    source: Path,
    url: str,
    local_store: dict[str, bytes],
    s3_environment: dict[str, str],
    tmp_path: Path,
) -> None:
    """The workers of a cluster find the server through the same environment."""
    options = ["--shard-rows=4", "--chunk-rows=2", "--workers=2", "--max-bad=1", "--no-dashboard"]
    for sizes in (["8", "--serves", "16"], ["8", "16"]):
        ran = commands.run(
            *("prepare", source, url, "--sizes", *sizes, *options),
            scratch=tmp_path,
            seconds=120,
            **s3_environment,
        )
        assert ran.status == 0, ran.err
    assert read_all(url) == local_store
    open_objects(url).remove(layout.shard("train", 8, 0))
    ran = commands.run("verify", url, scratch=tmp_path, **s3_environment)
    assert ran.status == 1
    assert layout.shard("train", 8, 0) in ran.out
    ran = commands.run("repair", url, scratch=tmp_path, seconds=120, **s3_environment)
    assert ran.status == 0, ran.err
    assert read_all(url) == local_store
