"""The implementation of `tesserae export STORE --to FORMAT`: files that other tools read."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from cluster.limits import cores
from pipeline.errors import TesseraeError
from pipeline.export.shard_task import (
    ExportedFile,
    ExportTask,
    export_shard,
    exported_name,
    open_exported_split,
)
from pipeline.filesystem import UNFINISHED, write_file
from pipeline.jobs import Failed, Job, run_jobs
from pipeline.store import layout, records
from pipeline.store.encoding import parse_encoding
from pipeline.store.lease import lease
from pipeline.store.objects import Objects
from pipeline.store.open import open_objects
from pipeline.store.split import Split
from workflows import cluster_kinds
from workflows.cluster_kinds import CommandCluster
from workflows.preparation.stored_splits import requested_splits
from workflows.runs.croissant import CROISSANT, croissant
from workflows.runs.dataset_card import dataset_card
from workflows.runs.options import ExportOptions
from workflows.terminal.formatting import counted
from workflows.terminal.progress import Progress

RECORD = "tesserae-export.json"
"""The file that says what a folder was exported from, by which the same command continues."""
CARD = "README.md"
"""The page of the data set."""


def run_export_store(options: ExportOptions) -> int:
    """Write the rows of a store as files of another format, each shard as a file.

    Files that were completed and have their length are kept, so the same command continues an
    export. Each readable row is in exactly one file.

    Args:
        options: `what`, the folder or URL of the store; `to`, the format; `out`, the folder;
            `split`, names or `("all",)` for all finished ones; `size` or `encoded`, the array
            (neither: the only one); `licence` and the options of the cluster.

    Returns:
        The exit status, 0; in a worker that Slurm has started, tasks run until the export ends.

    Raises:
        ClusterError: The cluster cannot be used.
        KeyboardInterrupt: The export was stopped; complete files are kept.
        TesseraeError: There is no such store, split or array; the folder holds something else; or
            a shard could not be exported.
        OSError: A file cannot be written.
    """
    assert options.to is not None  # as the options of a store are checked
    assert options.out is not None
    cluster_kinds.check_cluster_option(options.cluster)
    objects = open_objects(options.what)
    names = requested_splits(objects, options.split)
    if cluster_kinds.run_as_slurm_worker(options):
        return 0
    array = _array(objects, names, options)
    splits = [open_exported_split(objects, name, array) for name in names]
    out = options.out.absolute()
    try:
        with _only_writer(out):
            record = _Record(out, options, array, splits)
            with _cluster(options) as cluster:
                for split in splits:
                    _export_split(options.to, out, array, split, record, cluster)
            card = dataset_card(splits, array, options.to, licence=options.licence)
            write_file(out / CARD, [card.encode()], durable=True)
            described = croissant(splits, array, options.to, name=out.name, licence=options.licence)
            write_file(out / CROISSANT, [described], durable=True)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("Run the same command again to continue.") from None
    rows = sum(len(split.readable_rows) for split in splits)
    print(f"{options.out}: {counted(rows, 'row')} of {array} as {options.to}", flush=True)
    return 0


def _array(objects: Objects, names: list[str], options: ExportOptions) -> str:
    """Return the name of the array to export; without an option, the only one of the splits."""
    if options.encoded is not None:
        return parse_encoding(options.encoded).array_name
    if options.size is not None:
        return str(options.size)
    arrays: set[str] = set()
    for name in names:
        done = records.load_finish_record(objects, name)
        arrays |= set(() if done is None else done.array_names)
    if len(arrays) != 1:
        raise TesseraeError(
            f"{objects.url} has the arrays {', '.join(sorted(arrays)) or 'of no finished split'}:"
            " pass --size PIXELS or --encoded ENCODING for one of them."
        )
    return arrays.pop()


def _cluster(options: ExportOptions) -> CommandCluster:
    cluster = cluster_kinds.cluster_of(options)
    if options.workers is None:
        cluster.set_workers(cores())
    return cluster


@contextmanager
def _only_writer(out: Path) -> Iterator[None]:
    def refuse(holder: str) -> NoReturn:
        raise TesseraeError(f"{out} is being written by {holder}. Wait for it to end.")

    with lease(open_objects(str(out)), "export", wait=True, on_wait=refuse):
        try:
            yield
        finally:
            with suppress(OSError):  # what is left of the lock is no part of the data set
                (out / layout.TEMPORARY / "export.lock").unlink()
                (out / layout.TEMPORARY).rmdir()


class _Record:
    """The record of an export: what is exported, and the lengths of the files that are complete."""

    def __init__(
        self, out: Path, options: ExportOptions, array: str, splits: Sequence[Split]
    ) -> None:
        """Write the record of the export, or read that of the folder."""
        self._file = out / RECORD
        self._facts: dict[str, Any] = {
            "format": options.to,
            "array": array,
            "splits": {split.plan.split: split.digest for split in splits},
        }
        self._sizes: dict[str, int] = {}
        if self._file.exists():
            stored = _read_record(self._file)
            differences = [n for n, value in self._facts.items() if value != stored.get(n)]
            if differences:
                raise TesseraeError(
                    f"{out} holds an export with another {' and '.join(differences)}. Pass another"
                    " --out."
                )
            self._sizes = dict(stored.get("files", {}))
            self._remove_unfinished(splits)
        elif any(map(_is_foreign, out.iterdir())):
            raise TesseraeError(f"{out} holds other files: expected a new or an empty folder.")
        else:
            self._write()

    def _remove_unfinished(self, splits: Sequence[Split]) -> None:
        """Remove what an export that was killed had begun to write, and nothing else."""
        folders = {
            (self._file.parent / exported_name(str(self._facts["format"]), split, 0)).parent
            for split in splits
        }
        for folder in folders:
            for path in folder.iterdir() if folder.is_dir() else ():
                if UNFINISHED.fullmatch(path.name):
                    path.unlink(missing_ok=True)

    def has(self, name: str) -> bool:
        """Return True if a file was completed and still has its length."""
        file = self._file.parent / name
        is_file = file.is_file() and not file.is_symlink()
        return is_file and file.stat().st_size == self._sizes.get(name)

    def add(self, file: ExportedFile) -> None:
        """Record a complete file."""
        self._sizes[file.name] = file.bytes_out
        self._write()

    def _write(self) -> None:
        record = {**self._facts, "files": dict(sorted(self._sizes.items()))}
        write_file(self._file, [json.dumps(record, indent=1).encode()], durable=True)


def _is_foreign(path: Path) -> bool:
    """Return True for what neither this command nor the system puts into a new folder."""
    if path.name.startswith(f".{RECORD}.") and UNFINISHED.fullmatch(path.name):
        return False  # of a command that was killed as it began
    return path.name not in (layout.TEMPORARY, "lost+found")


def _read_record(file: Path) -> dict[str, Any]:
    with suppress(ValueError):
        record = json.loads(file.read_bytes())
        if isinstance(record, dict) and isinstance(record.get("files", {}), dict):
            return record
    raise TesseraeError(f"{file} is damaged. Pass another --out.")


def _export_split(
    to: str, out: Path, array: str, split: Split, record: _Record, cluster: CommandCluster
) -> None:
    name = split.plan.split
    todo = [
        shard
        for shard in range(split.plan.num_shards)
        if not record.has(exported_name(to, split, shard))
    ]
    task = ExportTask(
        store=split.objects.url,
        split=name,
        array=array,
        format=to,
        folder=str(out),
        digest=split.digest,
    )
    jobs = [Job(f"export-{name}-{array}-{shard}", export_shard, (task, shard)) for shard in todo]
    if not jobs:
        print(f"{name}: all files exist already", flush=True)
        return
    cluster.connect_if_remote()
    rows = sum(len(split.plan.rows(shard)) for shard in todo)
    failed: list[Failed] = []
    with Progress(f"{name}: export", rows=rows) as progress:
        run = f"export-{uuid.uuid4().hex[:12]}"  # others may export the same split
        for result in run_jobs(cluster.client, run, jobs, tick=cluster.maintain):
            if isinstance(result, Failed):
                failed.append(result)
                progress.note(f"{result.job.name}: {result.error}")
                continue
            record.add(result)
            rows_done = len(split.plan.rows(result.shard))
            progress.update(rows=rows_done, bytes_out=result.bytes_out)
    if failed:
        raise TesseraeError(
            f"{counted(len(failed), 'shard')} could not be exported. First, {failed[0].job.name}:"
            f" {failed[0].error} Complete files are kept: run the same command again to continue."
        )
