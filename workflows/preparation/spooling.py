"""Sources that can only be streamed: early checks, and the spool that they are copied to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pipeline import confined
from pipeline.errors import SourceError, StoreError, TesseraeError
from pipeline.ingest import planning
from pipeline.jobs import Failed, Job, run_jobs
from pipeline.sources import spool
from pipeline.sources.classes.class_order import combine_classes
from pipeline.sources.classes.split_classes import SplitClasses
from pipeline.sources.source import Source
from pipeline.store import layout
from pipeline.store.local import LocalObjects
from pipeline.store.objects import Objects
from workflows.cluster_kinds import CommandCluster
from workflows.terminal.formatting import bytes_text, printable
from workflows.terminal.progress import Progress


def spool_folder(objects: Objects, split: str) -> str:
    """Return the path of the folder that the images of a split are streamed into.

    Args:
        objects: The objects of the store.
        split: The name of the split.

    Returns:
        `<store>/.cache/<split>.spool`, which need not exist yet.

    Raises:
        StoreError: The store is not on a local disk, or its folder `.cache` is a link that leads
            out of it.
    """
    if not isinstance(objects, LocalObjects):
        raise StoreError(
            "a source that can only be streamed needs a store on a disk, for its spool. Copy the"
            " source to a disk first, or prepare on a disk and copy the store."
        )
    confined.confined_path(Path(objects.url), layout.spool(split))
    return f"{objects.url}/{layout.spool(split)}"


def remove_spool(objects: Objects, split: str) -> None:
    """Remove the spool of a split that is finished.

    Args:
        objects: The objects of the store; an object store has no spool.
        split: The name of the split. A spool that does not exist is no error; of one that is a
            link, only the link is removed.

    Raises:
        StoreError: The store's folder `.cache` is a link that leads out of the store.
    """
    if isinstance(objects, LocalObjects):
        root = Path(objects.url)
        confined.remove_folder(root / layout.spool(split), root)


def stream(
    split: str, source: Source, objects: Objects, cluster: CommandCluster, limit: int | None
) -> None:
    """Stream the blocks of a source that the spool lacks; remove those of other sources from it.

    The spool is the folder of `spool_folder`, in the store. Progress is shown on standard output.

    Args:
        split: The name of the split.
        source: The source that is streamed, whose `access` is `blocks`.
        objects: The objects of the store, which must be on a local disk.
        cluster: The cluster whose workers stream the blocks, inside its `with` block.
        limit: Size in bytes of the largest image that is stored; None is no limit.

    Raises:
        ClusterError: The cluster cannot be used.
        SourceError: The source is read at random, and has no blocks.
        StoreError: The store is not on a local disk, or there is too little free space.
        TesseraeError: A block could not be streamed.
    """
    folder = spool_folder(objects, split)
    blocks = source.blocks()
    fingerprint = source.fingerprint()
    stale = spool.remove_stale(folder, blocks, fingerprint, limit)
    if stale:
        print(
            f"{split}: removed {bytes_text(stale)} of another source or other options from the"
            " spool"
        )
    planning.check_spool_space(objects, spool.spool_bytes_needed(blocks))
    jobs = [
        Job(f"spool-{split}-{index:06d}", spool.spool_block, (block, folder, fingerprint, limit))
        for index, block in enumerate(blocks)
    ]
    with Progress(f"{split}: streaming {source.kind}", rows=len(jobs), unit="blocks") as progress:
        for result in run_jobs(
            cluster.client, planning.new_run(split), jobs, tick=cluster.maintain
        ):
            if isinstance(result, Failed):
                raise TesseraeError(f"{result.error}. Run the same command again to continue.")
            progress.update(rows=1)


def check_early(parts: Mapping[str, Source], rules: int) -> None:
    """Check sources as far as possible before hours of listing and streaming, and print remarks.

    Args:
        parts: The source of each split, by name.
        rules: Version of the listing rules: `listing_rules` of the store's recipe.

    Raises:
        SourceError: A table is missing, a file is not an archive, or a label or class is invalid.
    """
    previewed = {}
    for split, source in parts.items():
        source.check()
        for remark in source.remarks():
            print(printable(f"  {split}: {remark}"))
        evidence = source.preview()
        if evidence is not None:
            previewed[split] = SplitClasses(evidence, source.class_table(), source.words())
            for note in evidence.notes:
                print(printable(f"  {split}: {note}"), flush=True)
    if len(previewed) == len(parts):
        combine_classes(previewed, rules)


def preparable_splits(parts: Mapping[str, Source]) -> list[str]:
    """Return the splits that can be prepared now, and print why the others are left out.

    This is for splits that the user did not name: a split that cannot be prepared yet, such as
    ILSVRC2012's val without its table, must not hold up the others.

    Args:
        parts: The source of each split, by name.

    Returns:
        Their names, in the order of *parts*; empty if *parts* is.

    Raises:
        SourceError: No split can be prepared; it is the error of the first one.
    """
    accepted, errors = [], []
    for split, source in parts.items():
        try:
            source.check()
            accepted.append(split)
        except SourceError as e:
            errors.append(e)
            print(printable(f"split {split} is skipped: {e}"), flush=True)
    if errors and not accepted:
        raise errors[0]
    return accepted


@contextmanager
def naming_spools_in_errors(folders: list[str]) -> Iterator[None]:
    """Add the size of spools, and how to remove them, to a TesseraeError that the block raises.

    Args:
        folders: The paths from `spool_folder`; spools that are empty or missing add nothing.

    Yields:
        None. The error that is raised in place of the block's has the same class.
    """
    try:
        yield
    except TesseraeError as e:
        spool_notes = "".join(map(spool.remaining_spool_text, folders))
        if not spool_notes or len(e.args) != 1:
            raise
        raise type(e)(f"{e}{spool_notes}") from e
