"""The work of `tesserae verify`: every file of a store, compared with what was committed."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from pipeline.errors import StoreError
from pipeline.features import verify as feature_check
from pipeline.features.verify import FoundFeatures
from pipeline.ingest import verify
from pipeline.ingest.redecode import recheck_rows
from pipeline.ingest.verify import Found, Problem
from pipeline.store import features, layout, records
from pipeline.store.objects import Objects, open_objects
from workflows.terminal.formatting import bytes_text, counted, printable, seconds_text
from workflows.terminal.progress import Progress


def run(args: argparse.Namespace) -> int:
    """Check the store; 1 if anything is wrong."""
    objects = open_objects(args.store)
    whole = True
    made = features.splits_of(objects)
    for split in chosen_splits(objects, args.split):
        found, problems = verify_split(objects, split, threads=args.threads)
        say_problems(problems)
        for name in verify.strangers(objects, found):
            print(printable(f"  note: {name} is in no record. It does no harm."))
        if problems:
            whole = False
            print(f"  {_advice(problems)}")
        elif args.source is not None:
            whole = _recheck(objects, split, args.source) and whole
        for name in (name for name, splits in made.items() if split in splits):
            whole = verify_features(objects, name, found, threads=args.threads) and whole
    return 0 if _say_rest(objects, made, asked=args.split) and whole else 1


def _say_rest(objects: Objects, made: dict[str, list[str]], *, asked: list[str] | None) -> bool:
    """Name features of splits that the store has not; whether there are none."""
    known = records.splits(objects)
    rest = [one for name in made for one in feature_check.unknown_splits(known, made[name], name)]
    if asked is None:
        say_problems(rest)
    return asked is not None or not rest


def verify_features(objects: Objects, name: str, images: Found, *, threads: int = 0) -> bool:
    """Check one split's features, and say what is wrong with them; whether they are whole.

    Args:
        objects: The store.
        name: Of the features.
        images: The records of the split that they are of.
        threads: Readers (one a core).
    """
    started = time.monotonic()
    found = feature_check.read_records(objects, name, images)
    problems = list(found.problems)
    with Progress(
        f"{images.split}: verify features", rows=len(found.objects), unit="files"
    ) as progress:
        for written, problem in feature_check.check_objects(objects, found, threads=threads):
            progress.update(rows=1, bytes_in=written.num_bytes)
            if problem is not None:
                problems.append(problem)
    problems = sorted(set(problems))
    files = counted(len(found.objects) + len(found.commits), "file")
    total = bytes_text(sum(written.num_bytes for written in found.objects))
    seconds = seconds_text(time.monotonic() - started)
    state = _state(problems)
    print(printable(f"{images.split}: features {name}: {state}; {files}, {total} in {seconds}"))
    say_problems(problems)
    for stranger in feature_check.strangers(objects, found):
        print(printable(f"  note: {stranger} is in no record. It does no harm."))
    if problems:
        print(printable(f"  {_features_advice(found, problems)}"))
    return not problems


def _features_advice(found: FoundFeatures, problems: Sequence[Problem]) -> str:
    if found.recipe is None:
        return (
            "The same `tesserae features` as before brings it back. Or delete the folder"
            f" {layout.FEATURES}/{found.name} if nobody needs it."
        )
    words = found.recipe.words(found.kinds)
    command = f"tesserae features STORE --trunk MODEL {words} --split {found.split}"
    if all(problem.unfinished for problem in problems):
        return f"`{command}` goes on with what is not finished."
    return f"`{command} --repair` makes anew what is damaged or missing, and nothing else."


def _state(problems: Sequence[Problem]) -> str:
    wrong = sum(not problem.unfinished for problem in problems)
    return f"{wrong:,} wrong" if wrong else "not finished" if problems else "whole"


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
    found = verify.read_records(objects, split)
    problems = [*found.problems, *verify.check_whole(found), *verify.check_planned(objects, found)]
    total = sum(written.num_bytes for written in found.objects)
    with Progress(f"{split}: verify", rows=len(found.objects), unit="files") as progress:
        for written, problem in verify.check_objects(objects, found, threads=threads):
            progress.update(rows=1, bytes_in=written.num_bytes)
            if problem is not None:
                problems.append(problem)
    seconds = time.monotonic() - started
    problems = sorted(set(problems))
    files = counted(len(found.objects) + len(found.commits), "file")
    print(f"{split}: {_state(problems)}; {files}, {bytes_text(total)} in {seconds_text(seconds)}")
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
