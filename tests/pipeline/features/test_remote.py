"""Features of a store on an object store: in memory, and on S3 as moto emulates it."""

from __future__ import annotations

import itertools
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest

from pipeline.errors import StoreBusyError, StoreError
from pipeline.features import extract
from pipeline.features import shard_task as feature_shard
from pipeline.features.reader import open_features
from pipeline.features.shard_task import compute_shard
from pipeline.features.worker import FeatureNetwork, open_workspace
from pipeline.store import records
from pipeline.store.fingerprint import fingerprint
from pipeline.store.lease import lease
from pipeline.store.open import open_objects
from pipeline.store.remote import RemoteObjects
from tests.pipeline.features.small import BOTH, ROWS, SIZE, begin, files, make, problems


def upload(images: Path, url: str) -> str:
    """Copy a store to *url*, and return the URL."""
    remote = open_objects(url)
    for file in sorted(images.rglob("*")):
        name = str(file.relative_to(images))
        if file.is_file() and not name.startswith("."):
            remote.put(name, file.read_bytes())
    return url


@pytest.fixture
def url(images: Path) -> Iterator[str]:
    """Return the URL of a store in this process's memory."""
    name = uuid.uuid4().hex
    yield upload(images, f"memory://{name}")
    fsspec.filesystem("memory").rm(name, recursive=True)


def test_remote_features_have_the_same_bytes_as_local_ones(
    url: str, store: Path, trunk: Path
) -> None:
    """The features are also read back and verified."""
    name = make(url, trunk, kinds=BOTH)
    assert make(store, trunk, kinds=BOTH) == name
    assert files(url, name) == files(store, name)
    assert problems(url) == {}
    rows = np.arange(ROWS)
    for kind in BOTH:
        local_rows, remote_rows = (
            open_features(location, name, "train").rows(rows, kind) for location in (store, url)
        )
        assert np.array_equal(local_rows, remote_rows)
    run = begin(url, trunk, kinds=BOTH)
    assert extract.is_done(*run.context, BOTH)


@pytest.mark.slow
@pytest.mark.parametrize("arrives", [True, False])
def test_a_run_continues_after_a_failed_write_of_any_object(
    images: Path, trunk: Path, store: Path, arrives: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failed object may have been stored or not."""
    name = make(store, trunk)
    expected = files(store, name)
    pipe = RemoteObjects._pipe
    for failing in itertools.count():
        url = upload(images, f"memory://{uuid.uuid4().hex}")
        counter = itertools.count()

        def broken(
            self: RemoteObjects, name: str, data: bytes, mode: str, *, failing: int = failing,
            counter: Iterator[int] = counter,
        ) -> None:  # fmt: skip
            number = next(counter)
            if number != failing or arrives:
                pipe(self, name, data, mode)
            if number == failing:
                raise StoreError("the line is dead")

        with monkeypatch.context() as patch:
            patch.setattr(RemoteObjects, "_pipe", broken)
            try:
                make(url, trunk)
            except StoreError as e:
                assert "the line is dead" in str(e)  # noqa: PT017 - the run may also finish
        broke = next(counter) > failing
        make(url, trunk)
        assert files(url, name) == expected
        assert problems(url) == {}
        fsspec.filesystem("memory").rm(url.removeprefix("memory://"), recursive=True)
        if not broke:
            break
    assert failing == 1 + 3 + 2 * 3 + 1  # recipe, metadata, shards and commits, the record


def test_a_stale_task_that_still_writes_does_no_harm(
    url: str, trunk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The object of the stale task comes late, and the task commits the existing one."""
    stale = begin(url, trunk)
    run = begin(url, trunk)
    compute_shard(run.work, 1)
    name = run.shard("plain", 1)
    first = run.objects.get(name)
    compute = FeatureNetwork.compute
    monkeypatch.setattr(FeatureNetwork, "compute", lambda *arguments: compute(*arguments) + 1)
    record = records.load_commit(stale.objects, "train", 1)
    assert record is not None
    pixels = record.arrays[str(SIZE)]
    late = feature_shard._write_kinds(open_workspace(stale.work), 1, pixels, ("plain",), 1)
    monkeypatch.undo()
    assert late == {"plain": fingerprint(name, first)}
    assert run.objects.get(name) == first
    for shard in (0, 2):
        compute_shard(run.work, shard)
    extract.finish(*run.context)
    assert problems(url) == {}


def test_runs_of_the_same_split_exclude_each_other(url: str, trunk: Path) -> None:
    """Runs of other splits may go on at the same time."""
    run = begin(url, trunk)
    lease_name = extract.lease_name(run.recipe, "train")
    other_lease = extract.lease_name(run.recipe, "val")
    with (
        lease(run.objects, lease_name, wait=False),
        lease(run.objects, other_lease, wait=False),
        pytest.raises(StoreBusyError, match="is being written by process"),
        lease(open_objects(url), lease_name, wait=False),
    ):
        pytest.fail("both hold it")


@pytest.fixture(scope="module")
def bucket(s3_environment: dict[str, str]) -> str:
    """Return the URL of a bucket on an S3 server."""
    pytest.importorskip("s3fs").S3FileSystem().mkdir("features")
    return "s3://features"


@pytest.mark.slow
def test_s3_features_have_the_same_bytes_and_the_first_writer_wins(
    bucket: str, images: Path, store: Path, trunk: Path
) -> None:
    """Objects are created exclusively and not replaced."""
    url = upload(images, f"{bucket}/store")
    run = begin(url, trunk)
    compute_shard(run.work, 0)
    first = run.objects.get(run.shard("plain", 0))
    assert not run.objects.put_new(run.shard("plain", 0), b"late")
    assert run.objects.get(run.shard("plain", 0)) == first
    name = make(url, trunk)
    assert make(store, trunk) == name
    assert files(url, name) == files(store, name)
    assert problems(url) == {}
    run.objects.remove(run.shard("plain", 0))
    make(url, trunk)
    assert files(url, name) == files(store, name)
    shutil.rmtree(store)
