"""Shards copied once to a disk of this node, shared by all its ranks, while training goes on.

    FOLDER/.lock                  held while room is counted and made
    FOLDER/<store>/.use           held, shared, by everyone who reads there: it is not evicted
    FOLDER/<store>/<object>       a shard, whole, equal to the digest in its commit
    FOLDER/<store>/<object>.copy  held by who is copying it; who was killed left it to the next

`<store>` is made of the digests of recipe and plan, which decide every pixel: the same split under
another address has the same copies. All locks are the system's own and end with their holder.
Copies of stores that nobody reads are evicted, those that were read longest ago first. A split that
does not fit is copied in part: with all rows wanted all the time, evicting some for others would
only make work.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import stat
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from pipeline.errors import StoreDamagedError, StoreError
from pipeline.loader.reader import Reader
from pipeline.store import layout, records
from pipeline.store.objects import open_objects
from pipeline.store.split import Split

THREADS = 4
"""That copy shards at once."""

PIECE_BYTES = 8 * 2**20
"""That are copied before anyone looks whether to stop."""

FREE_SHARE = 0.9
"""Of the disk's free bytes that are filled if there is no limit."""

LOCK_SECONDS = 0.02
"""Between two tries to get a lock that another holds."""

LOOK_SECONDS = 0.5
"""Between two looks at what others are copying."""


class Staging:
    """The copies of some sizes of a split. `start` and `stop` may be called again and again."""

    def __init__(
        self, split: Split, folder: Path, *, limit_bytes: int | None, rank: int, world: int
    ) -> None:
        """Take what is there already; copy nothing yet.

        Args:
            split: What is copied.
            folder: Where to.
            limit_bytes: Most bytes of everything in *folder* (nine tenths of the disk's free ones).
            rank: Where in the split to begin, so that ranks of a node do not begin with the same.
            world: Number of ranks.

        Raises:
            StoreError: Nothing can be written there.
        """
        identity = f"{split.recipe.digest} {split.plan.digest}"
        self._split = split
        self._folder = folder
        self.root = folder / hashlib.sha256(identity.encode()).hexdigest()[:32]
        """Where the copies of this split are."""
        self._error: StoreError | None = None
        self._full = False
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._users = 0
        self._thread: threading.Thread | None = None
        self._staged = {size: np.zeros(split.plan.num_shards, bool) for size in split.sizes}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with self._alone() as alone:
                assert alone  # nobody has asked to stop yet
                self.root.mkdir(exist_ok=True)
                use = os.open(self.root / ".use", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                weakref.finalize(self, os.close, use).atexit = False
                fcntl.flock(use, fcntl.LOCK_SH)
                os.utime(use)
                free = int(FREE_SHARE * shutil.disk_usage(folder).free)
                self._limit = free + self._used() if limit_bytes is None else limit_bytes
        except OSError as e:
            raise StoreError(f"cannot stage in {folder}: {e.strerror or e}") from e
        wanted = [(size, n) for n in range(split.plan.num_shards) for size in split.sizes]
        begin = rank * len(wanted) // world
        self._wanted = [*wanted[begin:], *wanted[:begin]]
        self._take_what_is_there()

    @property
    def split(self) -> Split:
        """The split, as it is in the copies."""
        return replace(self._split, objects=open_objects(str(self.root)))

    @property
    def num_staged(self) -> int:
        """Shards, of all sizes, that are copied."""
        return int(sum(there.sum() for there in self._staged.values()))

    def staged(self, size: int) -> NDArray[np.bool_]:
        """Which shards of one size are copied: (num_shards,) bool. Grows while it is looked at."""
        return self._staged[size]

    def check(self) -> None:
        """Raise what went wrong in copying, if it was the store's fault.

        Raises:
            StoreDamagedError: A shard is not what its commit says.
        """
        if self._error is not None:
            raise self._error

    def start(self) -> None:
        """Go on copying, in threads, until everyone who called this has called `stop`."""
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._stopping.clear()
                self._thread = threading.Thread(target=self._run, name="staging", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Copy no more, and wait until nobody does."""
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._thread is not None:
                self._stopping.set()
                self._thread.join()
                self._thread = None

    # --- copying ------------------------------------------------------------------------------

    def _run(self) -> None:
        with ThreadPoolExecutor(THREADS, "staging") as pool:
            self._take_what_is_there()
            while self._wanted and self._going():
                before = self.num_staged
                list(pool.map(self._try_one, self._wanted))
                self._take_what_is_there()
                if self.num_staged == before:  # others are copying the rest
                    self._stopping.wait(LOOK_SECONDS)

    def _going(self) -> bool:
        return not self._stopping.is_set() and not self._full and self._error is None

    def _take_what_is_there(self) -> None:
        for size, shard in self._wanted:
            if (self.root / self._name(size, shard)).exists():
                self._staged[size][shard] = True
        self._wanted = [(size, n) for size, n in self._wanted if not self._staged[size][n]]

    def _try_one(self, which: tuple[int, int]) -> None:
        """Copy one shard, unless somebody else does."""
        if not self._going():
            return
        target = self.root / self._name(*which)
        copy = target.with_name(target.name + ".copy")
        try:
            copy.parent.mkdir(parents=True, exist_ok=True)
            with self._claimed(copy) as file:
                if file is None:
                    return
                try:
                    if not target.exists() and self._copy(*which, file):
                        copy.rename(target)
                        self._staged[which[0]][which[1]] = True
                finally:
                    copy.unlink(missing_ok=True)
        except StoreError as e:
            self._error = e
        except OSError:  # the disk is full or broken: the store is still there
            self._full = True

    def _copy(self, size: int, shard: int, file: int) -> bool:
        """Copy a shard to *file*; whether all of it was."""
        kept = records.load_commit(self._split.objects, self._split.plan.split, shard)
        if kept is None or str(size) not in kept.arrays:
            return False  # nor are its rows handed out
        written = kept.arrays[str(size)]
        if not self._reserve(file, written.num_bytes):
            return False
        hashed = xxhash.xxh3_128()
        for start in range(0, written.num_bytes, PIECE_BYTES):
            if self._stopping.is_set():  # but not because another found no room
                return False
            try:
                data = self._split.objects.read(written.name, start, PIECE_BYTES)
            except Exception:  # noqa: BLE001 - any of a network's; who reads rows hears of it too
                return False
            hashed.update(data)
            if os.pwrite(file, data, start) < len(data):
                raise OSError(errno.ENOSPC, "the disk is full")
        if hashed.hexdigest() != written.digest:
            raise StoreDamagedError(f"{written.name} is damaged. Run `tesserae repair`.")
        os.fsync(file)
        return True

    def _name(self, size: int, shard: int) -> str:
        return layout.shard(self._split.plan.split, size, shard)

    # --- room and locks -----------------------------------------------------------------------

    def _reserve(self, file: int, num_bytes: int) -> bool:
        """Make *file* so long, if that much is left or can be evicted."""
        with self._alone() as alone:
            if not alone:
                return False
            os.ftruncate(file, 0)
            if self._make_room(num_bytes):
                os.ftruncate(file, num_bytes)
                return True
            self._full = True
            return False

    def _make_room(self, num_bytes: int) -> bool:
        """Evict stores that nobody reads until so much is left. To be called alone."""

        def read(root: Path) -> float:
            use = root / ".use"  # not there if who evicted it was killed
            return use.stat().st_mtime if use.exists() else 0

        others = [root for root in self._folder.iterdir() if root.is_dir() and root != self.root]
        for root in sorted(others, key=read):
            if self._used() + num_bytes <= self._limit:
                break
            with self._claimed(root / ".use") as held:
                if held is not None:
                    shutil.rmtree(root)
        return self._used() + num_bytes <= self._limit

    def _used(self) -> int:
        used = 0
        for file in self._folder.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # it got its name, or was evicted
                found = file.stat()
                used += found.st_size if stat.S_ISREG(found.st_mode) else 0
        return used

    @contextlib.contextmanager
    def _claimed(self, path: Path) -> Iterator[int | None]:
        """Hold the lock of a file alone; None if somebody else has it."""
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                still = path.stat().st_ino == os.fstat(file).st_ino  # nobody was faster
            except (BlockingIOError, FileNotFoundError):
                still = False
            yield file if still else None
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # a child that was forked may have the file too
            os.close(file)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[bool]:
        """Wait to be the one who counts and makes room in the folder; false if told to stop."""
        while not self._stopping.is_set():
            with self._claimed(self._folder / ".lock") as held:
                if held is not None:
                    yield True
                    return
            self._stopping.wait(LOCK_SECONDS)
        yield False


class StagedReader:
    """Gathers rows of one size: from the copy where there is one, else from the store."""

    def __init__(
        self, staging: Staging, split: Split, size: int, near: Reader, far: Reader
    ) -> None:
        """Read nothing yet.

        Args:
            staging: What is copied.
            split: The split.
            size: Side of the squares in pixels.
            near: Reads the copies.
            far: Reads the store.
        """
        self._staging = staging
        self._staged = staging.staged(size)
        self._shard_rows = split.recipe.shard_rows
        self._per_shard = split.recipe.shard_rows // split.recipe.chunk_rows
        self._near = near
        self._far = far

    def gather(self, rows: NDArray[np.int64], out: NDArray[np.uint8], disk: Executor) -> str:
        """See `Reader`."""
        self._staging.check()
        near = self._staged[rows // self._shard_rows]
        if near.all():
            return self._gather_near(rows, out, disk)
        if not near.any():
            return self._far.gather(rows, out, disk)
        how = ""
        for gather, which in ((self._gather_near, near), (self._far.gather, ~near)):
            part = np.empty((int(which.sum()), *out.shape[1:]), np.uint8)
            how = gather(rows[which], part, disk)
            out[which] = part
        return how

    def _gather_near(self, rows: NDArray[np.int64], out: NDArray[np.uint8], disk: Executor) -> str:
        try:
            return self._near.gather(rows, out, disk)
        except StoreDamagedError as e:  # the store need not be
            raise StoreDamagedError(
                f"of the copies in {self._staging.root}: {str(e).partition(' Run ')[0]} Delete that"
                " folder."
            ) from None

    def missing(self, chunks: NDArray[np.int64]) -> NDArray[np.int64]:
        """See `Reader`."""
        near = self._staged[chunks // self._per_shard]
        return np.concatenate([self._near.missing(chunks[near]), self._far.missing(chunks[~near])])

    def expect(self, chunk: int, disk: Executor) -> None:
        """See `Reader`."""
        near = self._staged[chunk // self._per_shard]
        (self._near if near else self._far).expect(chunk, disk)
