"""The implementation of `tesserae verify`: checks every file of a store against its records."""

from __future__ import annotations

import time
from collections.abc import Sequence

from pipeline.errors import StoreError
from pipeline.features import verify as row_check
from pipeline.features.verify import RECIPES, DerivedRecords
from pipeline.ingest import verify
from pipeline.ingest.recheck import recheck_rows
from pipeline.ingest.verify import SplitRecords
from pipeline.store import derived, integrity, records
from pipeline.store.derived import DerivedRecipe
from pipeline.store.integrity import Problem
from pipeline.store.objects import Objects
from pipeline.store.open import open_objects
from workflows.preparation.options import ALL, VerifyOptions
from workflows.terminal.formatting import bytes_text, counted, printable, seconds_text
from workflows.terminal.progress import Progress

UNKNOWN_TEXT = "belongs to no commit; it is harmless and may be deleted."


def run_verify(options: VerifyOptions) -> int:
    """Check the requested splits and the rows that networks computed of them; print what is wrong.

    Nothing is changed.

    Args:
        options: The parsed options of `tesserae verify`: `store`, `split` (names, or `("all",)`),
            `threads` (0: one per core) and `source`, the number of rows of each undamaged split
            that are decoded again from the source and compared, too (None: no row).

    Returns:
        The exit status: 1 if a file is missing or damaged, a row differs or a split is not
        finished, else 0.

    Raises:
        StoreError: There is no store, or it lacks a requested split; with `source`, the images of a
            split are not where the store expects them.
    """
    objects = open_objects(options.store)
    ok = True
    sets = {kind: derived.splits_of(objects, kind.family) for kind in RECIPES}
    for split in splits_to_check(objects, options.split):
        split_records, problems = verify_split(objects, split, threads=options.threads)
        print_problems(problems)
        for name in verify.unknown_objects(objects, split_records):
            print(printable(f"  note: {name} {UNKNOWN_TEXT}"))
        if problems:
            ok = False
            print(f"  {_advice(problems)}")
        elif options.source is not None:
            ok = _recheck_source_rows(objects, split, options.source) and ok
        for kind, splits_of in sets.items():
            for name in (name for name, splits in splits_of.items() if split in splits):
                ok = verify_rows(objects, kind, name, split_records, threads=options.threads) and ok
    if options.split == ALL:
        ok = _check_unknown_splits(objects, sets) and ok
    return 0 if ok else 1


def _check_unknown_splits(
    objects: Objects, sets: dict[type[DerivedRecipe], dict[str, list[str]]]
) -> bool:
    """Print rows of splits that the store lacks; return True if there are none."""
    known_splits = records.stored_splits(objects)
    problems = [
        problem
        for kind, splits_of in sets.items()
        for name, splits in splits_of.items()
        for problem in row_check.unknown_splits(known_splits, splits, kind.family, name)
    ]
    print_problems(problems)
    return not problems


def verify_rows(
    objects: Objects,
    kind: type[DerivedRecipe],
    name: str,
    images: SplitRecords,
    *,
    threads: int = 0,
) -> bool:
    """Check the derived rows of one split against their records, and print what is wrong.

    Args:
        objects: The objects of the store.
        kind: The class of the recipe of the rows, such as `FeatureRecipe`.
        name: The name of the set of rows: its folder in that of the family.
        images: The records of the split whose images they were computed from, from `verify_split`.
        threads: Number of threads that read files (default 0: one per core).

    Returns:
        True if every file is present and undamaged and all shards are computed; False also if the
        store has no such set.
    """
    started = time.monotonic()
    noun = kind.family.noun
    row_records = row_check.check_derived_records(objects, kind, name, images)
    title = f"{images.split}: verify {noun}"
    problems = sorted(
        {*row_records.problems, *_problems_of_objects(objects, row_records, title, threads)}
    )
    summary = _verify_summary(row_records, problems, started)
    print(printable(f"{images.split}: {noun} {name}: {summary}"))
    print_problems(problems)
    for unknown in row_check.unknown_row_objects(objects, row_records):
        print(printable(f"  note: {unknown} {UNKNOWN_TEXT}"))
    if problems:
        print(printable(f"  {_advice_on_rows(row_records, problems)}"))
    return not problems


def _advice_on_rows(row_records: DerivedRecords, problems: Sequence[Problem]) -> str:
    family = row_records.kind.family
    if row_records.recipe is None:
        return (
            f"Run the same `{family.command}` as before to restore it, or delete the folder"
            f" {family.names.set_folder(row_records.name)} if it is not needed."
        )
    command = row_records.recipe.rerun_command(tuple(row_records.kinds))
    command = f"{command} --split {row_records.split}"
    if all(problem.unfinished for problem in problems):
        return f"`{command}` computes the unfinished shards."
    return f"`{command} --repair` recomputes only the damaged and missing files."


def print_problems(problems: Sequence[Problem]) -> None:
    """Print the name and the description of each problem.

    Args:
        problems: The problems, each with `name` (of a file in the store) and `description`, one
            line each; nothing is printed without any.
    """
    for problem in problems:
        print(printable(f"  {problem.name}: {problem.description}"))


def _advice(problems: Sequence[Problem]) -> str:
    if all(problem.unfinished for problem in problems):
        return "Run the same `tesserae prepare` again to finish it."
    return "`tesserae repair` restores damaged files."


def _recheck_source_rows(objects: Objects, split: str, num_rows: int) -> bool:
    different = list(recheck_rows(objects, split, num_rows))
    num_rows = min(num_rows, records.load_plan(objects, split).num_rows)
    print(f"{split}: {num_rows:,} rows decoded again from the source, {len(different):,} differ")
    print_problems(different)
    return not different


def splits_to_check(objects: Objects, requested: tuple[str, ...]) -> list[str]:
    """Return the splits to check: the requested ones, or all of the store.

    Args:
        objects: The objects of the store.
        requested: The names of splits, or `("all",)`.

    Returns:
        At least one name: *requested* as it is, or all splits of the store, sorted, for `("all",)`.

    Raises:
        StoreError: The store has no splits, or not all of the requested ones.
    """
    store_splits = records.stored_splits(objects)
    if not store_splits:
        records.load_recipe(objects)  # raises a clearer error if there is no store at all
        raise StoreError(f"the store {objects.url} has no split yet. Run `tesserae prepare`.")
    if requested == ALL:
        return store_splits
    unknown = [split for split in requested if split not in store_splits]
    if unknown:
        raise StoreError(
            f"no split {unknown[0]!r} in {objects.url}: it has {', '.join(store_splits)}."
        )
    return list(requested)


def verify_split(
    objects: Objects, split: str, *, threads: int = 0
) -> tuple[SplitRecords, list[Problem]]:
    """Check every file of one split against its digest, and print a summary.

    Args:
        objects: The objects of the store.
        split: The name of the split.
        threads: Number of threads that read files (default 0: one per core).

    Returns:
        The records of the split, for `verify_rows`, and its problems, each with `name` and
        `description`, sorted: missing and damaged files, and what is unfinished. Problems are
        returned, not raised, also those of a split that the store lacks; empty if the split is
        finished and undamaged.
    """
    started = time.monotonic()
    split_records = verify.read_records(objects, split)
    problems = [
        *split_records.problems,
        *verify.check_finished(split_records),
        *verify.check_planned(objects, split_records),
    ]
    problems += _problems_of_objects(objects, split_records, f"{split}: verify", threads)
    problems = sorted(set(problems))
    print(f"{split}: {_verify_summary(split_records, problems, started)}")
    _print_row_counts(split_records)
    return split_records, problems


def _problems_of_objects(
    objects: Objects, verified: SplitRecords | DerivedRecords, title: str, threads: int
) -> list[Problem]:
    """Read every object that the records vouch for, with progress; return what is wrong."""
    problems = []
    with Progress(title, rows=len(verified.objects), unit="files") as progress:
        for written, problem in integrity.check_objects(objects, verified.objects, threads=threads):
            progress.update(rows=1, bytes_in=written.num_bytes)
            if problem is not None:
                problems.append(problem)
    return problems


def _verify_summary(
    verified: SplitRecords | DerivedRecords, problems: Sequence[Problem], started: float
) -> str:
    """Return state, files, bytes and time of a verification that began at *started*."""
    wrong = sum(not problem.unfinished for problem in problems)
    state = f"{wrong:,} damaged or missing" if wrong else "not finished" if problems else "ok"
    files = counted(len(verified.objects) + len(verified.commits), "file")
    total = bytes_text(sum(written.num_bytes for written in verified.objects))
    return f"{state}; {files}, {total} in {seconds_text(time.monotonic() - started)}"


def _print_row_counts(split_records: SplitRecords) -> None:
    if split_records.plan is None:
        return
    committed = sum(commit.stop - commit.start for commit in split_records.commits.values())
    readable = sum(commit.counts.get("readable", 0) for commit in split_records.commits.values())
    print(
        f"{split_records.split}: {committed:,} of {split_records.plan.num_rows:,} rows committed,"
        f" {readable:,} readable, {committed - readable:,} quarantined"
    )
