"""Staging: copies are complete, made once, shared, bounded, and never disturb training."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import StoreDamagedError, StoreError
from pipeline.loader import Batch, Loader, Reading, Staging, shard_copies, staging_folder
from pipeline.store import layout
from pipeline.store.local import LocalObjects
from pipeline.store.open import open_objects
from tests.commands import wait_until
from tests.images import jpeg, prepare_inline
from tests.pipeline.loader.batches import check_same

CHOICES: dict[str, Any] = {"sizes": (8, 16), "shard_rows": 8, "chunk_rows": 4}
NUM_SHARDS = 2 * 8  # of both sizes


@pytest.fixture(scope="module")
def store(source: Path) -> Path:
    """Prepare an uncompressed store of the source on a disk."""
    folder = source.parent / "store"
    prepare_inline(source, str(folder), **CHOICES)
    return folder


def loader_of(store: Path | str, **words: Any) -> Loader:
    return Loader(store, **{"sizes": (8, 16), "batch_size": 9, "drop_last": False, **words})


def staged(loader: Loader) -> int:
    staging_copies = loader._open().copies
    assert staging_copies is not None
    return staging_copies.num_staged


def stage_all(loader: Loader) -> list[Batch]:
    """Run an epoch that lasts until all shards are copied, and return its batches."""
    batches = []
    for index, batch in enumerate(loader):
        batches.append(batch)
        if index + 1 == len(loader):
            assert wait_until(lambda: staged(loader) == NUM_SHARDS)
    return batches


@pytest.mark.parametrize(
    ("order", "codec", "where"),
    [
        ("random", "none", "disk"),
        ("windowed", "zstd:1", "memory"),
        pytest.param("random", "none", "memory", marks=pytest.mark.slow),
        pytest.param("random", "zstd:1", "disk", marks=pytest.mark.slow),
        pytest.param("random", "zstd:1", "memory", marks=pytest.mark.slow),
        pytest.param("windowed", "none", "disk", marks=pytest.mark.slow),
        pytest.param("windowed", "none", "memory", marks=pytest.mark.slow),
        pytest.param("windowed", "zstd:1", "disk", marks=pytest.mark.slow),
    ],
)
def test_staged_batches_are_those_of_the_store(
    source: Path, store: Path, tmp_path: Path, where: str, codec: str, order: str
) -> None:
    """Batches are equal while shards are copied, and after the store was removed."""
    url = f"memory://{tmp_path}/store" if where == "memory" else str(tmp_path / "store")
    prepare_inline(source, url, **CHOICES, codec=codec)
    words: dict[str, Any] = {"order": order, "window_bytes": 3 * 4 * 16 * 16 * 3}
    plain = loader_of(store, **words)
    expected = [list(plain), list(plain)]
    loader = loader_of(url, staging=tmp_path / "stage", **words)
    check_same(stage_all(loader), expected[0])
    objects = open_objects(url)
    for shard in range(8):
        for size in (8, 16):
            objects.remove(layout.shard("train", size, shard))
    check_same(list(loader), expected[1])
    again = loader_of(url, staging=tmp_path / "stage", **words)
    again.set_epoch(1)
    check_same(list(again), expected[1])


def test_batches_combine_rows_of_copies_and_store(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any subset of the shards may be copied."""
    monkeypatch.setattr(shard_copies.ShardCopySet, "_is_active", lambda self: False)
    loader = loader_of(store, staging=tmp_path / "stage")
    expected = list(loader)
    opened = loader._open()
    assert opened.copies is not None
    for size, shard in ((8, 1), (8, 4), (16, 1), (16, 7)):
        name = layout.shard("train", size, shard)
        copy = opened.copies.root / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(store / name, copy)
    opened.copies._take_complete_copies()
    assert opened.copies.num_staged == 4
    loader.set_epoch(0)
    check_same(list(loader), expected)


def test_ranks_share_the_copies(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each shard is read once for all ranks, although all begin at the same time."""
    seen: list[str] = []
    read = LocalObjects.read

    def note(self: LocalObjects, name: str, start: int, num_bytes: int) -> bytes:
        if num_bytes == shard_copies.PIECE_BYTES:
            seen.append(name)
            time.sleep(0.01)
        return read(self, name, start, num_bytes)

    monkeypatch.setattr(LocalObjects, "read", note)
    monkeypatch.setattr(shard_copies, "COPY_POLL_SECONDS", 0.01)
    loaders = [loader_of(store, staging=tmp_path / "stage", rank=r, world=3) for r in range(3)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(stage_all, loaders))
    assert len(seen) == len(set(seen)) == NUM_SHARDS
    assert not list((tmp_path / "stage").rglob("*.copy"))


def test_a_split_that_does_not_fit_is_copied_in_part(store: Path, tmp_path: Path) -> None:
    """No copy is evicted for other shards of the same split."""
    stage = tmp_path / "stage"
    sizes = [(store / layout.shard("train", 8, n)).stat().st_size for n in range(8)]
    loader = loader_of(store, sizes=(8,), staging=Staging(stage, sum(sizes[:3]) + 100))
    expected = list(loader_of(store, sizes=(8,)))
    for _ in range(2):
        loader.set_epoch(0)
        check_same(list(loader), expected)
        loader.set_epoch(0)
        for _ in loader:
            assert wait_until(lambda: staged(loader) == 3)
        copies = [file for file in stage.rglob("c.*") if file.suffix != ".copy"]
        assert len(copies) == 3
        assert (
            sum(f.stat().st_size for f in stage.rglob("c.*") if f.is_file()) <= sum(sizes[:3]) + 100
        )


def test_a_thread_without_space_does_not_stop_other_copies(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three shards fit, and four threads begin at once."""
    reserve = shard_copies.ShardCopySet._reserve
    results: list[bool] = []

    def together(self: shard_copies.ShardCopySet, file: int, num_bytes: int) -> bool:
        fits = reserve(self, file, num_bytes)
        results.append(fits)
        assert wait_until(lambda: len(results) >= 4)
        return fits

    monkeypatch.setattr(shard_copies.ShardCopySet, "_reserve", together)
    size = (store / layout.shard("train", 8, 0)).stat().st_size
    loader = loader_of(store, sizes=(8,), staging=Staging(tmp_path / "stage", 3 * size + 100))
    running = iter(loader)
    next(running)
    assert wait_until(lambda: staged(loader) == 3)
    assert sorted(results) == [False, True, True, True]
    running.close()  # type: ignore[attr-defined]


def test_a_copy_is_read_as_soon_as_it_is_complete(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other copies may still be running."""
    copy, go_on = shard_copies.ShardCopySet._copy, threading.Event()

    def slow(self: shard_copies.ShardCopySet, size: int, shard: int, file: int) -> bool:
        return (shard == 0 or go_on.wait(20)) and copy(self, size, shard, file)

    monkeypatch.setattr(shard_copies.ShardCopySet, "_copy", slow)
    loader = loader_of(store, sizes=(8,), staging=tmp_path / "stage")
    running = iter(loader)
    next(running)
    assert wait_until(lambda: staged(loader) == 1)
    go_on.set()
    assert wait_until(lambda: staged(loader) == 8)
    running.close()  # type: ignore[attr-defined]


def test_copying_continues_after_errors_of_the_store(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read error of the store does not count as a full disk."""
    read, tries = LocalObjects.read, iter([OSError(errno.EIO, "no"), RuntimeError("a timeout")])

    def shaky(self: LocalObjects, name: str, start: int, num_bytes: int) -> bytes:
        error = next(tries, None) if num_bytes == shard_copies.PIECE_BYTES else None
        if error is not None:
            raise error
        return read(self, name, start, num_bytes)

    monkeypatch.setattr(LocalObjects, "read", shaky)
    monkeypatch.setattr(shard_copies, "COPY_POLL_SECONDS", 0.01)
    stage_all(loader_of(store, staging=tmp_path / "stage"))


def test_the_error_of_a_missing_copy_names_the_folder(store: Path, tmp_path: Path) -> None:
    """The error tells the user what to delete, not to repair the store."""
    loader = loader_of(store, staging=tmp_path / "stage")
    stage_all(loader)
    copies = loader._open().copies
    assert copies is not None
    again = loader_of(store, staging=tmp_path / "stage")
    again._open()
    (copies.root / layout.shard("train", 8, 3)).unlink()
    expected = (
        rf"copy in {copies.root} is damaged: .*8/c\.3\.0\.0\.0 is missing\. Delete that folder"
    )
    with pytest.raises(StoreDamagedError, match=expected):
        list(again)


def copy_sets(folder: Path) -> list[Path]:
    """Return the folders that staging has created in *folder*."""
    return sorted(mark.parent for mark in folder.glob(f"*/{staging_folder.MARK_NAME}"))


def tree(folder: Path) -> dict[str, bytes | None]:
    """Return every path below a folder, with the contents of files and None for others."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture(scope="module")
def other_store(source: Path) -> Path:
    """Prepare another store with the same images in another order."""
    folder = source.parent / "other"
    prepare_inline(source, str(folder), **CHOICES, seed=1)
    return folder


def staged_set(store: Path, area: Path) -> Path:
    """Stage all of *store*, and return the folder of the copy set, which no process uses then."""
    loader = loader_of(store, staging=area)
    stage_all(loader)
    opened = loader._open().copies
    assert opened is not None
    return opened.root


def test_foreign_files_are_never_removed(store: Path, tmp_path: Path) -> None:
    """Foreign files count as used space, and without free space nothing is staged."""
    area = tmp_path / "scratch"
    for name in ("thesis", "0" * 32, ".hidden"):
        (area / name / "images.zarr" / "train" / "8").mkdir(parents=True)
        (area / name / "images.zarr" / "train" / "8" / "c.0.0.0.0").write_bytes(bytes(400_000))
    (area / "results.csv").write_bytes(b"1,2,3")
    (area / "elsewhere").symlink_to(store)
    before = tree(area)
    loader = loader_of(store, staging=Staging(area, 1_000_000))
    expected = list(loader_of(store))
    check_same(list(loader), expected)
    new_files = {name: data for name, data in tree(area).items() if name not in before}
    assert {name: data for name, data in tree(area).items() if name in before} == before
    assert not [name for name in new_files if "c." in name]
    roomy = loader_of(store, staging=Staging(area, 10_000_000))
    stage_all(roomy)
    assert {name: data for name, data in tree(area).items() if name in before} == before


def test_copies_of_another_store_are_evicted_for_this_one(
    store: Path, other_store: Path, tmp_path: Path
) -> None:
    """The whole set is removed, with mark, lock and folder."""
    area = tmp_path / "area"
    root = staged_set(other_store, area)
    assert copy_sets(area) == [root]
    num_bytes = sum(file.stat().st_size for file in root.rglob("c.*"))
    assert staged_set(store, area) in copy_sets(area)
    assert root.exists()
    shutil.rmtree(area)
    root = staged_set(other_store, area)
    mine = loader_of(store, staging=Staging(area, num_bytes + 1000))
    stage_all(mine)
    assert not root.exists()
    assert len(copy_sets(area)) == 1


def test_an_interrupted_eviction_is_completed_by_the_next(
    store: Path, other_store: Path, tmp_path: Path
) -> None:
    """The mark is removed last, so the remaining files still belong to staging."""
    area = tmp_path / "area"
    root = staged_set(other_store, area)
    num_bytes = sum(file.stat().st_size for file in root.rglob("c.*"))
    (root / staging_folder.LAST_USE_NAME).unlink()
    (root / layout.shard("train", 8, 0)).unlink()
    stage_all(loader_of(store, staging=Staging(area, num_bytes + 1000)))
    assert not root.exists()


@pytest.mark.parametrize(
    "disguise", ["no mark", "another set's mark", "mark of the folder it was copied from", "link"]
)
def test_a_folder_that_only_looks_like_a_copy_set_is_kept(
    store: Path, other_store: Path, tmp_path: Path, disguise: str
) -> None:
    """The folder has the right name or files named like shards, but no mark of its own."""
    area, away = tmp_path / "area", tmp_path / "away"
    root = staged_set(other_store, away)
    num_bytes = sum(file.stat().st_size for file in root.rglob("c.*"))
    fake = area / root.name
    area.mkdir()
    if disguise == "link":
        fake.symlink_to(root)
    else:
        shutil.copytree(root, fake)
    if disguise == "no mark":
        (fake / staging_folder.MARK_NAME).unlink()
    elif disguise == "another set's mark":
        fake = fake.rename(area / ("a" * 32))
    before = tree(away), tree(fake)
    loader = loader_of(store, staging=Staging(area, num_bytes + 1000))
    check_same(list(loader), list(loader_of(store)))
    assert (tree(away), tree(fake)) == before


def test_links_inside_a_copy_set_are_not_followed(
    store: Path, other_store: Path, tmp_path: Path
) -> None:
    """Neither evicting nor writing copies follows links."""
    area = tmp_path / "area"
    root = staged_set(other_store, area)
    num_bytes = sum(file.stat().st_size for file in root.rglob("c.*"))
    victim = shutil.copytree(root / "images.zarr", tmp_path / "victim")
    before = tree(victim)
    shutil.rmtree(root / "images.zarr" / "train" / "16")
    (root / "images.zarr" / "train" / "16").symlink_to(victim / "train" / "16")
    (root / "images.zarr" / "notes.txt").write_text("put here by somebody")
    stage_all(loader_of(store, staging=Staging(area, num_bytes + 1000)))
    assert tree(victim) == before
    assert not list(root.rglob("8/c.*"))
    assert (root / "images.zarr" / "notes.txt").exists()
    shutil.rmtree(area)
    root = staged_set(other_store, area)
    shutil.rmtree(root / "images.zarr" / "train" / "16")
    (root / "images.zarr" / "train" / "16").symlink_to(victim / "train" / "16")
    shutil.rmtree(victim / "train" / "16")
    (victim / "train" / "16").mkdir()
    list(loader_of(other_store, staging=area))
    assert not any((victim / "train" / "16").iterdir())


def test_a_link_in_place_of_an_incomplete_copy_is_not_followed(store: Path, tmp_path: Path) -> None:
    """Users with access to the folder could otherwise have any file emptied."""
    area = tmp_path / "area"
    root = staged_set(store, area)
    precious = tmp_path / "authorized_keys"
    precious.write_text("ssh-ed25519 AAAA")
    shard = root / layout.shard("train", 8, 3)
    shard.unlink()
    shard.with_name(shard.name + staging_folder.COPY_SUFFIX).symlink_to(precious)
    check_same(list(loader_of(store, staging=area)), list(loader_of(store)))
    assert precious.read_text() == "ssh-ed25519 AAAA"


def test_an_unmarked_folder_with_the_name_of_a_copy_set_is_refused(
    store: Path, tmp_path: Path
) -> None:
    """The error has the path and a cure, and nothing in the folder is read or written."""
    root = staged_set(store, tmp_path / "area")
    (root / staging_folder.MARK_NAME).unlink()
    before = tree(root)
    with pytest.raises(StoreError, match=f"{root}: staging has not marked it .* Remove that"):
        list(loader_of(store, staging=tmp_path / "area"))
    assert tree(root) == before
    shutil.rmtree(root)
    root.symlink_to(tmp_path)
    with pytest.raises(StoreError, match=f"cannot stage in {root}: .* Remove it"):
        list(loader_of(store, staging=tmp_path / "area"))
    root.unlink()
    root.mkdir()  # by a process that was killed before it wrote the mark
    (root / (staging_folder.MARK_NAME + staging_folder.COPY_SUFFIX)).write_text("half")
    stage_all(loader_of(store, staging=tmp_path / "area"))


def test_a_copy_set_of_another_user_is_not_used(
    store: Path, other_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a set is neither read nor removed, and each user's copies have a name of their own."""
    area = tmp_path / "area"
    root = staged_set(other_store, area)
    before = tree(root)
    with monkeypatch.context() as patch:
        patch.setattr(shard_copies.os, "geteuid", lambda: os.getuid() + 1)
        assert loader_of(other_store, staging=tmp_path / "b")._open().copies.root.name != root.name  # type: ignore[union-attr]
    init = staging_folder.StagingFolder.__init__

    def by_another_user(self: staging_folder.StagingFolder, *words: Any) -> None:
        init(self, *words)
        self._owner = os.getuid() + 1

    monkeypatch.setattr(staging_folder.StagingFolder, "__init__", by_another_user)
    with pytest.raises(StoreError, match=f"{root}: it belongs to user {os.getuid()}"):
        list(loader_of(other_store, staging=area))
    (area / ("0" * 32)).mkdir()
    assert not staging_folder.StagingFolder(area, 1).evict_for(1, "0" * 32)
    assert tree(root) == before


def test_unused_copy_sets_are_evicted_least_recently_used_first(
    source: Path, store: Path, tmp_path: Path
) -> None:
    """A set that a process uses is kept."""
    stage = tmp_path / "stage"
    loaders = []
    for seed in (1, 2, 3):
        prepare_inline(source, str(tmp_path / f"{seed}"), **CHOICES, seed=seed)
        loaders.append(loader_of(tmp_path / f"{seed}", staging=stage))
        stage_all(loaders[-1])
    roots = [loader._open().copies.root for loader in loaders]  # type: ignore[union-attr]
    num_bytes = sum(file.stat().st_size for file in roots[0].rglob("c.*"))
    os.utime(roots[0] / ".use", (0, 0))  # the first to go, if nobody read it
    os.utime(roots[1] / ".use", (1, 1))
    del loaders[1:]
    stage_all(loader_of(store, staging=Staging(stage, 3 * num_bytes + 1000)))
    assert [root.exists() for root in roots] == [True, False, True]
    loaders[0].set_epoch(0)
    check_same(list(loaders[0]), list(loader_of(tmp_path / "1")))


def test_no_copy_set_is_evicted_if_that_would_not_suffice(
    store: Path, other_store: Path, tmp_path: Path
) -> None:
    """Foreign files use most of the space."""
    area = tmp_path / "area"
    root = staged_set(other_store, area)
    (area / "film.mp4").write_bytes(bytes(500_000))
    before = tree(root)
    list(loader_of(store, staging=Staging(area, 499_000)))
    assert tree(root) == before


def test_copies_are_durable_before_they_have_their_name(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file under its final name must be complete, also after a power failure."""
    synced: set[int] = set()
    named: list[bool] = []
    fsync, rename = os.fsync, os.rename

    def note_sync(file: int) -> None:
        synced.add(os.fstat(file).st_ino)
        fsync(file)

    def note_name(old: str, new: str, **folders: int) -> None:
        if new.startswith("c."):
            info = os.stat(old, dir_fd=folders["src_dir_fd"])
            named.append(info.st_ino in synced)
        rename(old, new, **folders)

    monkeypatch.setattr(shard_copies.os, "fsync", note_sync)
    monkeypatch.setattr(shard_copies.os, "rename", note_name)
    stage_all(loader_of(store, staging=tmp_path / "stage"))
    assert named == [True] * NUM_SHARDS


@pytest.mark.parametrize("codec", ["none", "zstd:1"])
def test_staged_rows_are_read_from_the_copies(source: Path, tmp_path: Path, codec: str) -> None:
    """After copies are replaced by those of other images, batches have the other images."""
    prepare_inline(source, str(tmp_path / "store"), **CHOICES, codec=codec)
    other_images = shutil.copytree(source, tmp_path / "others")
    for number, file in enumerate(sorted(other_images.rglob("*.JPEG"))):
        if int(file.stem.rpartition("_")[2]) < 58:  # the last three are broken in both stores
            file.write_bytes(jpeg(1000 + number))
    prepare_inline(other_images, str(tmp_path / "twin"), **CHOICES, codec=codec)
    root = staged_set(tmp_path / "store", tmp_path / "area")
    for shard in range(8):
        for size in (8, 16):
            name = layout.shard("train", size, shard)
            shutil.copyfile(tmp_path / "twin" / name, root / name)
    loader = loader_of(tmp_path / "store", staging=tmp_path / "area")
    assert loader.staged_rows == 0
    check_same(list(loader), list(loader_of(tmp_path / "twin")))
    assert loader.staged_rows == 2 * 58
    assert loader_of(tmp_path / "store").staged_rows == 0


def test_staging_may_be_given_as_a_path(store: Path, tmp_path: Path) -> None:
    """A path means a folder without a limit; a limit is at least one byte."""
    loader = Loader(store, size=8, staging=tmp_path / "stage")
    assert loader.staging == Staging(str(tmp_path / "stage"))
    with pytest.raises(ValueError, match="max_bytes is 0: expected at least 1"):
        Staging(tmp_path, 0)


def test_a_damaged_shard_is_an_error_that_names_it(store: Path, tmp_path: Path) -> None:
    """Each copy is compared with the commit, and no damaged copy remains."""
    copy = shutil.copytree(store, tmp_path / "store")
    shard = copy / layout.shard("train", 16, 3)
    data = bytearray(shard.read_bytes())
    data[1000] ^= 1
    shard.write_bytes(data)
    one_by_one = Reading(prefetch_bytes=1, threads=1)
    loader = loader_of(copy, staging=tmp_path / "stage", reading=one_by_one)
    with pytest.raises(StoreDamagedError, match=r"16/c\.3\.0\.0\.0 is damaged"):
        list(chain.from_iterable(loader for _ in range(200)))
    assert not list((tmp_path / "stage").rglob("16/c.3.*"))


def test_an_interrupted_copy_is_made_again(store: Path, tmp_path: Path) -> None:
    """A copy that another process is making is awaited."""
    loader = loader_of(store, staging=tmp_path / "stage")
    opened = loader._open()
    assert opened.copies is not None
    halves = [opened.copies.root / layout.shard("train", 8, n) for n in (2, 5)]
    for half in halves:
        half.parent.mkdir(parents=True, exist_ok=True)
        half.with_name(half.name + ".copy").write_bytes(b"half a shard")
    with halves[1].with_name(halves[1].name + ".copy").open() as locked_file:
        fcntl.flock(locked_file, fcntl.LOCK_EX)
        running = iter(loader)
        next(running)
        assert wait_until(lambda: staged(loader) == NUM_SHARDS - 1)
        assert not halves[1].exists()
    assert wait_until(lambda: staged(loader) == NUM_SHARDS)
    for half, shard in zip(halves, (2, 5), strict=True):
        assert half.read_bytes() == (store / layout.shard("train", 8, shard)).read_bytes()
    running.close()  # type: ignore[attr-defined]


def test_a_forked_child_holds_no_lock(store: Path, tmp_path: Path) -> None:
    """The child was forked while the lock was held, and lives on."""
    loader = loader_of(store, staging=tmp_path / "stage")
    copies = loader._open().copies
    assert copies is not None
    with copies._area_locked():
        duplicate = os.dup(
            max(int(fd.name) for fd in Path("/proc/self/fd").iterdir() if is_lock(fd))
        )
    try:
        stage_all(loader)
    finally:
        os.close(duplicate)


def is_lock(fd: Path) -> bool:
    try:
        return fd.readlink().name == staging_folder.LOCK_NAME
    except FileNotFoundError:  # of the listing itself
        return False


def test_a_full_disk_stops_copying_and_nothing_else(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are still read from the store."""

    def full(file: int, data: bytes, start: int) -> int:
        raise OSError(errno.ENOSPC, "the disk is full")

    monkeypatch.setattr(shard_copies.os, "pwrite", full)
    loader = loader_of(store, staging=tmp_path / "stage")
    check_same(list(loader), list(loader_of(store)))
    assert staged(loader) == 0
    assert not list((tmp_path / "stage").rglob("c.*"))


def test_a_folder_that_is_not_writable_is_an_error(store: Path, tmp_path: Path) -> None:
    """The error is raised before training."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot stage in"):
        list(loader_of(store, staging=tmp_path / "file" / "stage"))


def test_an_interrupted_epoch_leaves_no_thread(store: Path, tmp_path: Path) -> None:
    """The next epoch continues to copy."""
    threads = set(threading.enumerate())
    loader = loader_of(store, staging=tmp_path / "stage")
    for _ in range(3):
        for _ in loader:
            break
        assert set(threading.enumerate()) <= threads
    stage_all(loader)
    assert set(threading.enumerate()) <= threads


def test_simultaneous_epochs_copy_until_the_last_has_ended(store: Path, tmp_path: Path) -> None:
    """One loader may be iterated twice at the same time."""
    loader = loader_of(store, staging=tmp_path / "stage")
    first, second = iter(loader), iter(loader)
    next(first), next(second)
    first.close()  # type: ignore[attr-defined]
    assert wait_until(lambda: staged(loader) == NUM_SHARDS)
    second.close()  # type: ignore[attr-defined]


def test_only_committed_shards_are_staged(source: Path, tmp_path: Path) -> None:
    """Shards without a commit are not copied."""
    from pipeline.ingest.shard_task import prepare_shard
    from tests.images import plan_inline

    objects, _, work = plan_inline(source, str(tmp_path / "store"), **CHOICES)
    for shard in (0, 3):
        prepare_shard(work, shard)
    objects.end()
    words: dict[str, Any] = {"allow_partial": True, "drop_last": False}
    expected = list(loader_of(tmp_path / "store", **words))
    loader = loader_of(tmp_path / "store", staging=tmp_path / "stage", **words)
    for batch, expected_batch in zip(loader, expected, strict=True):
        check_same([batch], [expected_batch])
        if batch is expected_batch:
            break
    loader.set_epoch(0)
    for _ in loader:
        assert wait_until(lambda: staged(loader) == 4)
    loader.set_epoch(0)
    check_same(list(loader), expected)
