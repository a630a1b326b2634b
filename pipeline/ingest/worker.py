"""The arguments of a run's tasks, and what a worker opens and checks before its first one.

A worker must see the same files as the planner, and make the same pixels of them.
"""

from __future__ import annotations

import functools
import socket
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline import code_digest
from pipeline.errors import SourceError, StoreError, StoreMismatchError
from pipeline.images import probe
from pipeline.ingest.readahead import LOCAL_READERS, REMOTE_READERS
from pipeline.ingest.source_index import SourceIndex
from pipeline.ingest.watchdog import Watchdog
from pipeline.sources.reader import SourceReader
from pipeline.store import layout, recipe, records
from pipeline.store.encoded_plan import EncodedPlan, check_same_encoder
from pipeline.store.encoding import Encoding, parse_encoding
from pipeline.store.objects import Objects
from pipeline.store.open import open_objects
from pipeline.store.plan import Plan
from pipeline.urls import is_url


@dataclass(frozen=True, kw_only=True)
class ShardTaskConfig:
    """The arguments that all tasks of a run share. It is small, since each task carries it."""

    store: str
    """The path or URL of the store."""
    split: str
    """The name of the split."""
    run: str
    """The name of the run (`pipeline.ingest.planning.new_run`)."""
    arrays: tuple[str, ...]
    """The names of the image arrays that every shard gets: sizes in pixels as text, such as `224`,
    and those of encoded rows, such as `jpeg256@90`."""
    image_seconds: float = 60.0
    """The time limit in seconds for decoding one image."""
    image_memory: int = 4 * 2**30
    """The memory limit in bytes of the child that decodes image by image."""
    watched: bool = True
    """True if a nanny restarts workers, so that the watchdog may end a hung one."""
    code: str = ""
    """The client's `running_code_digest`, which workers must match; empty: no comparison."""
    readers: int | None = None
    """The number of threads of a task that read images ahead; None: one for a local source, 16 for
    a remote one."""
    max_read_attempts: int = 4
    """The number of times that an image is read before the error counts."""
    retry_delay_seconds: float = 0.5
    """The delay in seconds of the second attempt to read an image; each further one is delayed four
    times as long."""


class Workspace:
    """The open files and readers that a worker keeps between the tasks of a run."""

    def __init__(self, config: ShardTaskConfig) -> None:
        """Open the store and check that this machine makes the recipe's pixels.

        Args:
            config: The arguments that all tasks of the run share.

        Raises:
            StoreMismatchError: This machine makes other pixels, or runs other code.
            StoreError: A record or the source index cannot be read.
        """
        self.config = config
        code_digest.check_same_code(config.code)
        self.objects: Objects = open_objects(config.store, config.run)
        self.recipe = records.load_recipe(self.objects)
        self.plan = records.load_plan(self.objects, config.split)
        self.rows = SourceIndex(self.objects, self.plan)
        self.reader = SourceReader(self.rows.origin.root)
        self.remote = is_url(self.rows.origin.root)
        self.readers = config.readers or (REMOTE_READERS if self.remote else LOCAL_READERS)
        self.watchdog = Watchdog(config.image_seconds if config.watched else 0.0)
        _check_probe_pixels(self.recipe)
        self.encoded_plans = {
            name: _checked_encoded_plan(self.objects, self.plan, name)
            for name in config.arrays
            if not name.isdecimal()
        }


workspace = functools.lru_cache(maxsize=2)(Workspace)


def check_run_active(store: str, run: str) -> None:
    """Check that *store* on this machine is the store of the active run *run*.

    Only a folder is checked, by the temporary folder `.tmp/<run>` that a run has in it from `begin`
    to `end`; nothing is created. A URL is not checked, except one of `file://`: it leads to the
    same store on every machine.

    Args:
        store: The path or URL of the store. A `~` in a path is not expanded.
        run: The name of the run, which started on another machine or in another process.

    Raises:
        StoreError: The folder is not that store (a local disk that is mounted at the same path), or
            the run has not begun or has ended.
    """
    # Each run has a folder for its temporary files: another machine's local disk has none.
    folder = store.removeprefix("file://")
    if not is_url(folder) and not (Path(folder) / layout.TEMPORARY / run).is_dir():
        raise StoreError(
            f"on {socket.gethostname()} {store} is not the folder that the command writes to, or"
            " the command has ended. Every machine must have the same folder under the same path:"
            " use a network file system, or an object store."
        )


def _check_probe_pixels(stored: recipe.Recipe) -> None:
    probed = probe.probe(stored.filter, rules=stored.decode_rules)
    local = replace(
        stored, decoder=probed.decoder, resizer=probed.resizer, software=probe.description()
    )
    try:
        recipe.check_same_recipe(stored, local)
    except StoreMismatchError as e:
        raise StoreMismatchError(f"on {socket.gethostname()}: {e}") from None


def _checked_encoded_plan(objects: Objects, plan: Plan, encoding: str) -> EncodedPlan:
    stored = records.load_encoded_plan(objects, plan, encoding)
    try:
        check_same_encoder(stored, *local_encoder(parse_encoding(encoding)))
    except StoreMismatchError as e:
        raise StoreMismatchError(f"on {socket.gethostname()}: {e}") from None
    return stored


def local_encoder(encoding: Encoding) -> tuple[str, str]:
    """Return the digest of what this machine encodes, and the software that does, in words.

    Args:
        encoding: The encoding of the rows; both are empty for the source's own bytes.
    """
    if encoding.is_original:
        return "", ""
    return probe.probe_encoder(encoding.quality), probe.encoder_description()


def check_worker(config: ShardTaskConfig) -> None:
    """Open the store and the source of *config* in this process, as its tasks will.

    They stay open for the tasks of this process: those of the last two configurations are kept.

    Args:
        config: The arguments that all tasks of the run share: a `ShardTaskConfig` with at least
            `store`, `split`, `run` and `arrays`. A `~` in the path of its store is not expanded.

    Raises:
        StoreError: The folder on this machine is not the store in which the run was started, on a
            disk the run has not begun or has ended, or a record or the source index cannot be read.
        StoreMismatchError: This machine decodes, resizes or encodes otherwise than the planner, or
            runs other code.
        SourceError: The source does not exist on this machine.
    """
    check_run_active(config.store, config.run)
    space = workspace(config)
    root = space.rows.origin.root
    if not space.remote and not Path(root).exists():
        raise SourceError(
            f"{root} does not exist on {socket.gethostname()}. Every machine must have the images"
            " under the same path: use a network file system, or a URL."
        )
