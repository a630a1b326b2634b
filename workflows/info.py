"""Say what a store holds: splits, sizes, rows, recipe, and why rows are in quarantine."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from typing import Any

from pipeline.decode import STATUS_WORDS
from pipeline.errors import StoreDamagedError
from pipeline.store import layout, records, table
from pipeline.store.objects import Objects, open_objects
from workflows.figures import printable

SHOWN = 50
"""Quarantined rows that are named, unless --all."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The words of `tesserae info`."""
    parser.add_argument("store", metavar="STORE", help="folder or URL of the store")
    parser.add_argument("--json", action="store_true", help="everything, for a program")
    parser.add_argument("--all", action="store_true", help="name every quarantined row")


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
    recipe = records.load_recipe(objects)
    return {
        "store": objects.url,
        "format": layout.FORMAT,
        "recipe": {
            "fit": recipe.fit,
            "filter": recipe.filter,
            "serves": recipe.serves,
            "exif": recipe.exif,
            "shard_rows": recipe.shard_rows,
            "chunk_rows": recipe.chunk_rows,
            "codec": recipe.codec,
            "classes": len(recipe.classes),
            "decoder": recipe.decoder,
            "resizer": recipe.resizer,
            "software": recipe.software,
            "digest": recipe.digest,
        },
        "splits": {split: _describe_split(objects, split) for split in records.splits(objects)},
    }


def _describe_split(objects: Objects, split: str) -> dict[str, Any]:
    plan = records.load_plan(objects, split)
    commits = records.load_commits(objects, plan)
    try:
        done = records.load_done(objects, split)
    except StoreDamagedError:
        done = None
    counts = sum((Counter(kept.counts) for kept in commits.values()), Counter[str]())
    sizes: Counter[str] = Counter()
    for kept in commits.values():
        sizes.update({size: written.num_bytes for size, written in kept.arrays.items()})
    return {
        "finished": done is not None,
        "rows": plan.num_rows,
        "rows_committed": sum(kept.stop - kept.start for kept in commits.values()),
        "shards": plan.num_shards,
        "shards_committed": len(commits),
        "seed": plan.seed,
        "listing": plan.listing,
        "sizes": {size: {"num_bytes": sizes[size]} for size in sorted(sizes, key=int)},
        "sizes_finished": [] if done is None else list(done.sizes),
        "counts": dict(counts),
        "quarantine": quarantine(
            objects, [kept.table.name for kept in commits.values() if _bad(kept.counts)]
        ),
    }


def _bad(counts: dict[str, int]) -> bool:
    return any(count for word, count in counts.items() if word != "readable")


def quarantine(objects: Objects, parts: list[str]) -> list[dict[str, Any]]:
    """The quarantined rows of some parts of the table, with key, status and reason."""
    found = []
    for name in parts:
        part = table.decode_part(objects.get(name)).select(["row", "key", "status", "reason"])
        found += [line for line in part.to_pylist() if line["status"]]
    for line in found:
        line["word"] = STATUS_WORDS[line["status"]]
    return found


def lines(facts: dict[str, Any], limit: int | None) -> list[str]:
    """The same for a person."""
    recipe = facts["recipe"]
    out = [
        f"{facts['store']}  (format {facts['format']})",
        f"  recipe  {recipe['fit']}, {recipe['filter']}, {recipe['classes']:,} classes,"
        f" {recipe['shard_rows']:,} rows a shard, {recipe['chunk_rows']:,} a chunk,"
        f" codec {recipe['codec']}",
    ]
    out += [f"  {part}  {what}" for part, what in sorted(recipe["software"].items())]
    for split, what in facts["splits"].items():
        out += _split_lines(split, what, limit)
    return [printable(line) for line in out]


def _split_lines(split: str, what: dict[str, Any], limit: int | None) -> list[str]:
    state = "finished" if what["finished"] else "not finished"
    out = [
        f"  {split}  {state}: {what['rows_committed']:,} of {what['rows']:,} rows,"
        f" {what['shards_committed']:,} of {what['shards']:,} shards"
    ]
    for size, kept in what["sizes"].items():
        done = "" if int(size) in what["sizes_finished"] else "  (not finished)"
        out.append(f"    {size:>4} px  {kept['num_bytes'] / 1e9:,.3f} GB{done}")
    bad = {word: count for word, count in what["counts"].items() if word != "readable"}
    if bad:
        out.append("    in quarantine: " + ", ".join(f"{n:,} {word}" for word, n in bad.items()))
    shown = what["quarantine"][:limit]
    out += [
        f"      row {line['row']}  {line['key']}: {line['word']}, {line['reason']}"
        for line in shown
    ]
    if len(what["quarantine"]) > len(shown):
        out.append(f"      ... and {len(what['quarantine']) - len(shown):,} more (--all)")
    return out
