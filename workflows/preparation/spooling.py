"""Sources that can only be streamed: what is looked at before, and what is left behind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pipeline import confined
from pipeline.errors import SourceError, StoreError, TesseraeError
from pipeline.ingest import planning
from pipeline.jobs import Failed, Job, run_jobs
from pipeline.sources import Checked, Previewed, Remarked, Source, spool
from pipeline.sources.classes.order import SplitClasses, settle_classes
from pipeline.store import layout
from pipeline.store.objects import LocalObjects, Objects
from workflows.session import Cluster
from workflows.terminal.formatting import bytes_text, printable
from workflows.terminal.progress import Progress


def spool_folder(objects: Objects, split: str) -> str:
    """Return the folder that the images of *split* are streamed into.

    Raises:
        StoreError: The store is on no disk.
    """
    if not isinstance(objects, LocalObjects):
        raise StoreError(
            "a source that can only be streamed needs a store on a disk, for its spool. Copy the"
            " source to a disk first, or prepare on a disk and copy the store."
        )
    confined.confined(Path(objects.url), layout.spool(split))
    return f"{objects.url}/{layout.spool(split)}"


def remove_spool(objects: Objects, split: str) -> None:
    """Remove the record files of a split that is finished; an object store has none."""
    if isinstance(objects, LocalObjects):
        root = Path(objects.url)
        confined.remove_folder(root / layout.spool(split), root)


def stream(
    split: str, source: Source, objects: Objects, cluster: Cluster, limit: int | None
) -> None:
    """Stream the blocks of *source* that the spool has not yet, from this very source.

    Args:
        split: Which split it is of.
        source: What is streamed.
        objects: The store.
        cluster: Where it is streamed.
        limit: Largest image in bytes that is kept whole; None: any.

    Raises:
        TesseraeError: A block could not be streamed, or there is no room for all.
    """
    folder = spool_folder(objects, split)
    blocks = source.blocks()
    fingerprint = source.fingerprint()
    stale = spool.remove_stale(folder, blocks, fingerprint, limit)
    if stale:
        print(f"{split}: {bytes_text(stale)} of another source or other options leave the spool")
    planning.check_spool_room(objects, spool.spool_bytes_needed(blocks))
    jobs = [
        Job(f"spool-{split}-{place:06d}", spool.spool_block, (block, folder, fingerprint, limit))
        for place, block in enumerate(blocks)
    ]
    with Progress(f"{split}: streaming {source.kind}", rows=len(jobs), unit="blocks") as progress:
        for result in run_jobs(cluster.client, planning.new_run(split), jobs, tick=cluster.keep):
            if isinstance(result, Failed):
                raise TesseraeError(f"{result.error}. Run the same command again to go on.")
            progress.update(rows=1)


def look_before(parts: Mapping[str, Source], rules: int) -> None:
    """Look at what can be known of sources before hours of listing and streaming them.

    Args:
        parts: Split -> its source.
        rules: Version of the listing rules.

    Raises:
        SourceError: A table is missing, a file is no archive, a label or its class cannot be.
    """
    said = {}
    for split, source in parts.items():
        if isinstance(source, Checked):
            source.check()
        for remark in source.remarks() if isinstance(source, Remarked) else ():
            print(printable(f"  {split}: {remark}"))
        if isinstance(source, Previewed):
            evidence = source.preview()
            said[split] = SplitClasses(evidence, source.class_table(), source.words())
            for note in evidence.notes:
                print(printable(f"  {split}: {note}"), flush=True)
    if len(said) == len(parts):
        settle_classes(said, rules)


def with_classes(parts: Mapping[str, Source]) -> list[str]:
    """Return the splits whose sources pass a first look, and say why others are left out.

    Nobody named them: what cannot be prepared yet, such as ILSVRC2012's val without its table, does
    not keep the others waiting.

    Raises:
        SourceError: None does.
    """
    kept, errors = [], []
    for split, source in parts.items():
        try:
            if isinstance(source, Checked):
                source.check()
            kept.append(split)
        except SourceError as e:
            errors.append(e)
            print(printable(f"{split} is left out: {e}"), flush=True)
    if errors and not kept:
        raise errors[0]
    return kept


@contextmanager
def saying_what_is_left(folders: list[str]) -> Iterator[None]:
    """Add to an error what the spools in *folders* take, and what to do about them."""
    try:
        yield
    except TesseraeError as e:
        left = "".join(map(spool.left_text, folders))
        if not left or len(e.args) != 1:
            raise
        raise type(e)(f"{e}{left}") from e
