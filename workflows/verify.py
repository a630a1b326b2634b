"""Check every file of a store against what was committed, and name each that is wrong.

Exit status 0: the store is whole. 1: it is not, or a split of it is not finished.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from pipeline.errors import StoreError
from pipeline.features.check import check_features
from pipeline.ingest import check
from pipeline.ingest.check import Found, Problem
from pipeline.ingest.recheck import recheck_rows
from pipeline.store import features, records
from pipeline.store.objects import Objects, open_objects
from workflows.figures import bytes_text, counted, printable, seconds_text
from workflows.progress import Progress

SOURCE_ROWS = 100
"""Rows of each split that --source decodes again, unless told."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The words of `tesserae verify`."""
    parser.add_argument("store", metavar="STORE", help="folder or URL of the store")
    parser.add_argument("--split", nargs="+", help="splits to check (all)")
    parser.add_argument(
        "--source",
        nargs="?",
        type=int,
        const=SOURCE_ROWS,
        metavar="ROWS",
        help=f"also decode that many rows of each split from the source ({SOURCE_ROWS})",
    )
    parser.add_argument("--threads", type=int, default=0, help="readers (one a core)")


def run(args: argparse.Namespace) -> int:
    """Check the store; 1 if anything is wrong."""
    if args.source is not None and args.source < 1:
        raise ValueError(f"--source is {args.source}: expected at least 1 row.")
    objects = open_objects(args.store)
    whole = True
    for split in chosen_splits(objects, args.split):
        found, problems = verify_split(objects, split, threads=args.threads)
        say_problems(problems)
        for name in check.strangers(objects, found):
            print(printable(f"  note: {name} is in no record. It does no harm."))
        if problems:
            whole = False
            print(f"  {_advice(problems)}")
        elif args.source is not None:
            whole = _recheck(objects, split, args.source) and whole
    for name in features.names(objects):
        whole = verify_features(objects, name) and whole
    return 0 if whole else 1


def verify_features(objects: Objects, name: str) -> bool:
    """Check features, and say what is wrong with them; whether they are whole."""
    started = time.monotonic()
    problems, files = [], 0
    with Progress(f"{name}: verify", unit="files") as progress:
        for _, problem in check_features(objects, name):
            files += 1
            progress.update(rows=1)
            if problem is not None:
                problems.append(problem)
    wrong = sum(not problem.unfinished for problem in problems)
    state = f"{wrong:,} wrong" if wrong else "not finished" if problems else "whole"
    seconds = seconds_text(time.monotonic() - started)
    print(printable(f"features {name}: {state}; {counted(files, 'file')} in {seconds}"))
    say_problems(sorted(set(problems)))
    if problems:
        print("  `tesserae features` with the same options and --repair makes them anew.")
    return not problems


def say_problems(problems: Sequence[Problem]) -> None:
    """Name each of them."""
    for problem in problems:
        print(printable(f"  {problem.name}: {problem.what}"))


def _advice(problems: Sequence[Problem]) -> str:
    if all(problem.unfinished for problem in problems):
        return "Run the same `tesserae prepare` again to go on with what is not finished."
    return "`tesserae repair` brings damaged files back."


def _recheck(objects: Objects, split: str, num_rows: int) -> bool:
    different = list(recheck_rows(objects, split, num_rows))
    num_rows = min(num_rows, records.load_plan(objects, split).num_rows)
    print(f"{split}: {num_rows:,} rows decoded again from the source, {len(different):,} differ")
    say_problems(different)
    return not different


def chosen_splits(objects: Objects, asked: list[str] | None) -> list[str]:
    """The splits to look at.

    Raises:
        StoreError: There are none, or not those asked for.
    """
    known = records.splits(objects)
    if not known:
        records.load_recipe(objects)  # says so if there is no store at all
        raise StoreError(f"the store {objects.url} has no split yet. Run `tesserae prepare`.")
    unknown = [split for split in asked or [] if split not in known]
    if unknown:
        raise StoreError(f"no split {unknown[0]!r} in {objects.url}: it has {', '.join(known)}.")
    return asked or known


def verify_split(objects: Objects, split: str, *, threads: int = 0) -> tuple[Found, list[Problem]]:
    """Check one split; returns its records and what is wrong."""
    started = time.monotonic()
    found = check.read_records(objects, split)
    problems = [*found.problems, *check.check_whole(found), *check.check_planned(objects, found)]
    total = sum(written.num_bytes for written in found.objects)
    with Progress(f"{split}: verify", rows=len(found.objects), unit="files") as progress:
        for written, problem in check.check_objects(objects, found, threads=threads):
            progress.update(rows=1, bytes_in=written.num_bytes)
            if problem is not None:
                problems.append(problem)
    seconds = time.monotonic() - started
    problems = sorted(set(problems))
    wrong = sum(not problem.unfinished for problem in problems)
    state = f"{wrong:,} wrong" if wrong else "not finished" if problems else "whole"
    files = counted(len(found.objects) + len(found.commits), "file")
    print(f"{split}: {state}; {files}, {bytes_text(total)} in {seconds_text(seconds)}")
    _say_rows(found)
    return found, problems


def _say_rows(found: Found) -> None:
    if found.plan is None:
        return
    committed = sum(kept.stop - kept.start for kept in found.commits.values())
    readable = sum(kept.counts.get("readable", 0) for kept in found.commits.values())
    print(
        f"{found.split}: {committed:,} of {found.plan.num_rows:,} rows committed,"
        f" {readable:,} readable, {committed - readable:,} in quarantine"
    )
