"""The work of `tesserae info`: facts about a store, as lines or as JSON."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import asdict
from typing import Any

from pipeline.errors import StoreError
from pipeline.features import verify as feature_check
from pipeline.ingest import verify
from pipeline.ingest.source_index import Rows
from pipeline.ingest.verify import Found, Problem
from pipeline.store import features, records
from pipeline.store.objects import Objects, open_objects
from pipeline.store.plan import Plan
from pipeline.store.recipe import Recipe
from workflows.preparation.class_lines import mapping_lines, passed_text
from workflows.preparation.quarantine import by_reason, has_quarantined, read_lines
from workflows.terminal.formatting import bytes_text, printable

SHOWN = 50
"""Quarantined rows that are named, unless --all."""


def run(args: argparse.Namespace) -> int:
    """Print what the store holds."""
    objects = open_objects(args.store)
    facts = describe(objects)
    if args.json:
        print(json.dumps(facts, indent=2, ensure_ascii=True))
        return 0
    for line in lines(facts, limit=None if args.all else SHOWN):
        print(line)
    return 0


def describe(objects: Objects) -> dict[str, Any]:
    """What a store holds, as plain JSON values.

    Raises:
        StoreError: There is no store.
    """
    found = [verify.read_records(objects, split) for split in records.splits(objects)]
    recipe = next((one.recipe for one in found if one.recipe is not None), None)
    if recipe is None and not found:
        recipe = records.load_recipe(objects)
    return {
        "store": objects.url,
        "format": None if recipe is None else recipe.format,
        "recipe": None if recipe is None else _describe_recipe(recipe),
        "splits": {one.split: _describe_split(objects, one) for one in found},
        "features": {
            name: _describe_features(objects, name, [one for one in found if one.split in splits])
            for name, splits in features.splits_of(objects).items()
        },
    }


def _describe_recipe(recipe: Recipe) -> dict[str, Any]:
    return {
        "fit": recipe.fit,
        "filter": recipe.filter,
        "serves": recipe.serves,
        "exif": recipe.exif,
        "shard_rows": recipe.shard_rows,
        "chunk_rows": recipe.chunk_rows,
        "codec": recipe.codec,
        "missing_end": recipe.missing_end,
        "max_image_bytes": recipe.max_image_bytes,
        "classes": len(recipe.classes),
        "class_names": [list(pair) for pair in recipe.classes],
        "class_numbers": list(recipe.class_numbers),
        "decoder": recipe.decoder,
        "resizer": recipe.resizer,
        "software": recipe.software,
        "decode_rules": recipe.decode_rules,
        "listing_rules": recipe.listing_rules,
        "digest": recipe.digest,
    }


def _describe_split(objects: Objects, found: Found) -> dict[str, Any]:
    plan, commits = found.plan, found.commits.values()
    counts = sum((Counter(kept.counts) for kept in commits), Counter[str]())
    sizes: Counter[str] = Counter()
    for kept in commits:
        sizes.update({size: written.num_bytes for size, written in kept.arrays.items()})
    quarantined, remarks, problems = _noted_rows(objects, found)
    return {
        "finished": found.done is not None,
        "rows": None if plan is None else plan.num_rows,
        "rows_committed": sum(kept.stop - kept.start for kept in commits),
        "shards": None if plan is None else plan.num_shards,
        "shards_committed": len(commits),
        "seed": None if plan is None else plan.seed,
        "listing": None if plan is None else plan.listing,
        "sizes": {size: {"num_bytes": sizes[size]} for size in sorted(sizes, key=int)},
        "sizes_finished": [] if found.done is None else list(found.done.sizes),
        "counts": dict(counts),
        "quarantine": quarantined,
        "remarks": remarks,
        "problems": [asdict(problem) for problem in (*found.problems, *problems)],
        "passed_over": _passed_over(objects, plan),
    }


def _noted_rows(
    objects: Objects, found: Found
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[Problem]]:
    """Return rows in quarantine, readable rows with a remark, and damaged parts of the table."""
    may_remark = found.recipe is not None and found.recipe.missing_end == "keep"
    parts = [
        kept.table for kept in found.commits.values() if may_remark or has_quarantined(kept.counts)
    ]
    noted, problems = read_lines(objects, parts)
    quarantined = [line for line in noted if line["status"]]
    return quarantined, [line for line in noted if not line["status"]], problems


def _passed_over(objects: Objects, plan: Plan | None) -> dict[str, tuple[int, str]]:
    """Why files of the source are no samples -> how many, the first; as far as it is known."""
    if plan is None:
        return {}
    try:
        rows = Rows(objects, plan)
    except StoreError:  # where the images are is a cache
        return {}
    rows.close()
    return rows.origin.passed


TOLD = (
    *("trunk", "cut", "pooling", "stored_size", "input_size", "precision", "dtype", "dim"),
    *("weights", "digest"),
)
"""Of a recipe of features."""


def _describe_features(objects: Objects, name: str, images: list[Found]) -> dict[str, Any]:
    found = [feature_check.read_records(objects, name, one) for one in images]
    recipe = next((one.recipe for one in found if one.recipe is not None), None)
    splits = {
        one.split: {
            "finished": one.done is not None,
            "kinds": list(one.kinds if one.done is None else one.done.kinds),
            "shards_committed": len(one.commits),
            "num_bytes": sum(
                w.num_bytes for kept in one.commits.values() for w in kept.arrays.values()
            ),
            "problems": [asdict(problem) for problem in one.problems if not problem.unfinished],
        }
        for one in found
    }
    return {
        **{key: None if recipe is None else getattr(recipe, key) for key in TOLD},
        "splits": splits,
        "num_bytes": sum(what["num_bytes"] for what in splits.values()),
    }


def lines(facts: dict[str, Any], limit: int | None) -> list[str]:
    """The same for a person."""
    out = [
        f"{facts['store']}  (format {facts['format'] or 'unknown'})",
        *_recipe_lines(facts["recipe"]),
    ]
    for split, what in facts["splits"].items():
        out += _split_lines(split, what, limit)
    for name, what in facts["features"].items():
        out += _feature_lines(name, what)
    return [printable(line) for line in out]


def _recipe_lines(recipe: dict[str, Any] | None) -> list[str]:
    if recipe is None:
        return ["  recipe  lost. Run `tesserae verify`."]
    return [
        f"  recipe  {recipe['fit']}, {recipe['filter']}, {recipe['classes']:,} classes,"
        f" {recipe['shard_rows']:,} rows a shard, {recipe['chunk_rows']:,} a chunk,"
        f" codec {recipe['codec']}",
        *mapping_lines(recipe["class_names"], recipe["class_numbers"]),
        *(f"  {part}  {what}" for part, what in sorted(recipe["software"].items())),
    ]


def _feature_lines(name: str, what: dict[str, Any]) -> list[str]:
    out = [f"  features {name}  {bytes_text(what['num_bytes'])}"]
    if what["dim"] is not None:
        out.append(
            f"    {what['dim']:,} numbers, {what['dtype']}, of {what['trunk']},"
            f" {what['cut'] or 'the end'}, pooling {what['pooling']}; of {what['stored_size']} px,"
            f" computed in {what['precision']}"
        )
    for split, made in what["splits"].items():
        state = "finished" if made["finished"] else "not finished"
        done = f"{made['shards_committed']:,} shards, {bytes_text(made['num_bytes'])}"
        out.append(f"    {split}  {state}: {', '.join(made['kinds']) or 'nothing'}; {done}")
        out += [f"      {bad['name']}: {bad['what']}" for bad in made["problems"]]
    return out


def _split_lines(split: str, what: dict[str, Any], limit: int | None) -> list[str]:
    state = "finished" if what["finished"] else "not finished"
    done = f"{what['rows_committed']:,} rows, {what['shards_committed']:,} shards; its plan is lost"
    if what["rows"] is not None:
        done = (
            f"{what['rows_committed']:,} of {what['rows']:,} rows,"
            f" {what['shards_committed']:,} of {what['shards']:,} shards"
        )
    out = [f"  {split}  {state}: {done}"]
    out += [f"    {bad['name']}: {bad['what']}. Run `tesserae repair`." for bad in what["problems"]]
    for size, kept in what["sizes"].items():
        done = "" if int(size) in what["sizes_finished"] else "  (not finished)"
        out.append(f"    {size:>4} px  {bytes_text(kept['num_bytes'])}{done}")
    if what["passed_over"]:
        out.append(f"    {passed_text(what['passed_over'])}")
    bad = {word: count for word, count in what["counts"].items() if word != "readable"}
    if bad:
        out.append("    in quarantine: " + ", ".join(f"{n:,} {word}" for word, n in bad.items()))
    out += [
        f"    {reason.num_rows:,} readable: {reason.reason}, e.g. {reason.key}"
        for reason in by_reason(what["remarks"])
    ]
    shown = what["quarantine"][:limit]
    out += [
        f"      row {line['row']}  {line['key']}: {line['word']}, {line['reason']}"
        for line in shown
    ]
    if len(what["quarantine"]) > len(shown):
        out.append(f"      ... and {len(what['quarantine']) - len(shown):,} more (--all)")
    return out
