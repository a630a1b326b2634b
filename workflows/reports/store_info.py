"""The implementation of `tesserae info`: facts about a store, as lines or as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pipeline.errors import StoreError
from pipeline.features import verify as row_check
from pipeline.ingest import verify
from pipeline.ingest.source_index import SourceIndex
from pipeline.ingest.verify import SplitRecords
from pipeline.store import derived, records
from pipeline.store.derived import DerivedRecipe
from pipeline.store.encoding import parse_encoding
from pipeline.store.features import FeatureRecipe
from pipeline.store.integrity import Problem
from pipeline.store.objects import Objects
from pipeline.store.open import open_objects
from pipeline.store.plan import Plan
from pipeline.store.recipe import Recipe
from pipeline.store.upscaled import UpscaledRecipe
from workflows.reports.class_lines import mapping_lines, skipped_text
from workflows.reports.options import InfoOptions
from workflows.reports.quarantine import by_reason, has_quarantined, read_lines
from workflows.terminal.formatting import array_text, bytes_text, printable

MAX_LISTED_ROWS = 50
"""The number of quarantined rows that are listed without --all."""


def run_info(options: InfoOptions) -> int:
    """Print the facts about the store, as lines or with `--json` as one JSON document.

    Args:
        options: The parsed options, such as `InfoOptions(store="stores/imagenet")`: `store`, its
            path or URL; `json`; and `all`, to list every quarantined row instead of the first 50.

    Returns:
        The exit status, 0; also if files of the store are damaged.

    Raises:
        StoreError: There is no store; it has no split, and its recipe is damaged; or a document has
            a format that this version does not read.
    """
    objects = open_objects(options.store)
    facts = describe_store(objects)
    if options.json:
        print(json.dumps(facts, indent=2, ensure_ascii=True))
        return 0
    for line in store_info_lines(facts, limit=None if options.all else MAX_LISTED_ROWS):
        print(line)
    return 0


def describe_store(objects: Objects) -> dict[str, Any]:
    """Return the facts about a store as plain JSON values; damaged files are listed as problems.

    Args:
        objects: The objects of the store, from `open_objects(STORE)` of `pipeline.store.open`.

    Returns:
        The document of `tesserae info --json`: `store` (path or URL), `format` and `recipe` (its
        number of the format and a dictionary of its fields, such as `fit` and `codec`; None if
        neither the recipe nor a copy can be read), `splits`, `features` and `upscaled`. `splits`
        has for each name a dictionary with `finished`, `rows`, `rows_committed`, `shards`,
        `shards_committed`, `seed`, `listing`, `sizes` (by side, as text, dictionaries with
        `num_bytes`),
        `sizes_finished`, `encoded` (by name of the array, such as `jpeg256@90`, dictionaries with
        `num_bytes`; `mean_row_bytes`, the bytes on disk for each readable row, None without one;
        `short_side` in pixels and `quality`, both None for `original`; and `encoder`, the software
        that made the JPEGs in words, None if there is none or its record cannot be read),
        `encoded_finished`, `counts` (committed rows by status in words), `quarantine` and `remarks`
        (lists of the dictionaries that `read_lines` returns), `problems` (with `name` and `what`)
        and `passed_over` (number and first name of skipped files, by reason); `rows`, `shards`,
        `seed` and `listing` are None if neither the plan nor its copy can be read. `features` has
        for each name of a feature set a dictionary with fields of its recipe, such as `dim`, with
        `num_bytes`, and with `splits`: by name, dictionaries with `finished`, `kinds`,
        `shards_committed`, `num_bytes` and `problems`. `upscaled` has the same for each set of
        upscaled images.

    Raises:
        StoreError: There is no store; it has no split, and its recipe is damaged; or a document has
            a format that this version does not read.
    """
    splits = [verify.read_records(objects, split) for split in records.stored_splits(objects)]
    recipe = next((split.recipe for split in splits if split.recipe is not None), None)
    if recipe is None and not splits:
        recipe = records.load_recipe(objects)
    return {
        "store": objects.url,
        "format": None if recipe is None else recipe.format,
        "recipe": None if recipe is None else _recipe_facts(recipe),
        "splits": {split.split: _describe_split(objects, split) for split in splits},
        "features": _describe_sets(objects, FeatureRecipe, FEATURE_FIELDS, splits),
        "upscaled": _describe_sets(objects, UpscaledRecipe, UPSCALED_FIELDS, splits),
    }


def _recipe_facts(recipe: Recipe) -> dict[str, Any]:
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


def _describe_split(objects: Objects, split_records: SplitRecords) -> dict[str, Any]:
    plan, commits = split_records.plan, split_records.commits.values()
    counts = sum((Counter(commit.counts) for commit in commits), Counter[str]())
    array_bytes: Counter[str] = Counter()
    for commit in commits:
        array_bytes.update({name: w.num_bytes for name, w in commit.shard_objects.items()})
    names = verify.committed_arrays(split_records)
    done = split_records.done
    quarantined, remarks, problems = _noted_rows(objects, split_records)
    return {
        "finished": done is not None,
        "rows": None if plan is None else plan.num_rows,
        "rows_committed": sum(commit.stop - commit.start for commit in commits),
        "shards": None if plan is None else plan.num_shards,
        "shards_committed": len(commits),
        "seed": None if plan is None else plan.seed,
        "listing": None if plan is None else plan.listing,
        "sizes": {name: {"num_bytes": array_bytes[name]} for name in names if name.isdecimal()},
        "sizes_finished": [] if done is None else list(done.sizes),
        "encoded": {
            name: _describe_encoded(split_records, name, array_bytes[name])
            for name in names
            if not name.isdecimal()
        },
        "encoded_finished": [] if done is None else list(done.encoded),
        "counts": dict(counts),
        "quarantine": quarantined,
        "remarks": remarks,
        "problems": [_problem(problem) for problem in (*split_records.problems, *problems)],
        "passed_over": _passed_over(objects, plan),
    }


def _describe_encoded(split_records: SplitRecords, name: str, num_bytes: int) -> dict[str, Any]:
    commits = split_records.commits.values()
    readable = sum(c.counts.get("readable", 0) for c in commits if name in c.encoded)
    plan = split_records.encoded_plans.get(name)
    encoding = parse_encoding(name)
    return {
        "num_bytes": num_bytes,
        "mean_row_bytes": round(num_bytes / readable) if readable else None,
        "short_side": encoding.short_side or None,
        "quality": encoding.quality or None,
        "encoder": (plan.software or None) if plan is not None else None,
    }


def _problem(problem: Problem) -> dict[str, str]:
    return {"name": problem.name, "what": problem.description}


def _noted_rows(
    objects: Objects, split_records: SplitRecords
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[Problem]]:
    """Return quarantined rows, readable rows with a remark, and damaged parts of the table."""
    may_remark = split_records.recipe is not None and split_records.recipe.missing_end == "keep"
    parts = [
        commit.table
        for commit in split_records.commits.values()
        if may_remark or has_quarantined(commit.counts)
    ]
    noted, problems = read_lines(objects, parts)
    quarantined = [line for line in noted if line["status"]]
    return quarantined, [line for line in noted if not line["status"]], problems


def _passed_over(objects: Objects, plan: Plan | None) -> dict[str, tuple[int, str]]:
    """Return (number, first name) of the source's skipped files by reason, as far as recorded."""
    if plan is None:
        return {}
    try:
        rows = SourceIndex(objects, plan)
    except StoreError:  # the record of the source's location is a cache, and may be gone
        return {}
    rows.close()
    return rows.origin.passed


FEATURE_FIELDS = (
    *("trunk", "cut", "pooling", "stored_size", "input_size", "precision", "dtype", "dim"),
    *("weights", "digest", "encoded", "crop"),
)
"""The fields of a feature recipe that are reported."""
UPSCALED_FIELDS = (
    *("network", "weights", "step", "scale", "stored_size", "size", "self_ensemble", "precision"),
    "digest",
)
"""The fields of a recipe of upscaled images that are reported."""


def _describe_sets(
    objects: Objects,
    kind: type[DerivedRecipe],
    recipe_fields: Sequence[str],
    splits: Sequence[SplitRecords],
) -> dict[str, Any]:
    """Return the facts about each set of derived rows of a family, by name."""
    return {
        name: _describe_set(
            objects, kind, name, recipe_fields, [each for each in splits if each.split in names]
        )
        for name, names in derived.splits_of(objects, kind.family).items()
    }


def _describe_set(
    objects: Objects,
    kind: type[DerivedRecipe],
    name: str,
    recipe_fields: Sequence[str],
    images: Sequence[SplitRecords],
) -> dict[str, Any]:
    split_records = [row_check.check_derived_records(objects, kind, name, each) for each in images]
    recipe = next((split.recipe for split in split_records if split.recipe is not None), None)
    splits = {
        split.split: {
            "finished": split.done is not None,
            "kinds": list(split.kinds if split.done is None else split.done.kinds),
            "shards_committed": len(split.commits),
            "num_bytes": sum(
                w.num_bytes for commit in split.commits.values() for w in commit.arrays.values()
            ),
            "problems": [_problem(problem) for problem in split.problems if not problem.unfinished],
        }
        for split in split_records
    }
    return {
        **{key: None if recipe is None else getattr(recipe, key) for key in recipe_fields},
        "splits": splits,
        "num_bytes": sum(split["num_bytes"] for split in splits.values()),
    }


def store_info_lines(facts: dict[str, Any], limit: int | None) -> list[str]:
    """Return facts as lines for the terminal, with control characters in names escaped.

    Args:
        facts: The result of `describe_store`.
        limit: The largest number of quarantined rows to list for each split; None lists all.
    """
    out = [
        f"{facts['store']}  (format {facts['format'] or 'unknown'})",
        *_recipe_lines(facts["recipe"]),
    ]
    for split, split_facts in facts["splits"].items():
        out += _info_split_lines(split, split_facts, limit)
    for name, set_facts in facts["features"].items():
        out += _set_lines(f"features {name}", _feature_line(set_facts), set_facts)
    for name, set_facts in facts["upscaled"].items():
        out += _set_lines(f"upscaled {name}", _upscaled_line(set_facts), set_facts)
    return [printable(line) for line in out]


def _recipe_lines(recipe: dict[str, Any] | None) -> list[str]:
    if recipe is None:
        return ["  recipe  missing. Run `tesserae verify`."]
    return [
        f"  recipe  {recipe['fit']}, {recipe['filter']}, {recipe['classes']:,} classes,"
        f" {recipe['shard_rows']:,} rows per shard, {recipe['chunk_rows']:,} per chunk,"
        f" codec {recipe['codec']}",
        *mapping_lines(recipe["class_names"], recipe["class_numbers"]),
        *(f"  {name}  {version}" for name, version in sorted(recipe["software"].items())),
    ]


def _images_text(facts: dict[str, Any]) -> str:
    """Return which images features were computed from."""
    size = f"{facts['stored_size']} px"
    if facts["encoded"] is None:
        return size
    share = facts["crop"].split()[1]
    return f"{facts['encoded']} at {size}, centre crop of {float(share):g} of the short side"


def _feature_line(facts: dict[str, Any]) -> str:
    """Return what features are, in one line; empty without a recipe."""
    if facts["dim"] is None:
        return ""
    return (
        f"{facts['dim']:,} x {facts['dtype']}, trunk {facts['trunk']}, cut {facts['cut'] or 'end'},"
        f" pooling {facts['pooling']}; {_images_text(facts)}, computed in {facts['precision']}"
    )


def _upscaled_line(facts: dict[str, Any]) -> str:
    """Return what upscaled images are, in one line; empty without a recipe."""
    if facts["size"] is None:
        return ""
    ensemble = ", mean of eight orientations" if facts["self_ensemble"] else ""
    return (
        f"{facts['size']} px, {facts['scale']} times {facts['stored_size']} px, network"
        f" {facts['network']} at step {facts['step']:,}, computed in {facts['precision']}{ensemble}"
    )


def _set_lines(title: str, line: str, facts: dict[str, Any]) -> list[str]:
    """Return the lines about a set of derived rows, of which *line* says what they are."""
    out = [f"  {title}  {bytes_text(facts['num_bytes'])}"]
    out += [f"    {line}"] if line else []
    for split, progress in facts["splits"].items():
        state = "finished" if progress["finished"] else "not finished"
        num_bytes = bytes_text(progress["num_bytes"])
        done = f"{progress['shards_committed']:,} shards, {num_bytes}"
        kinds = ", ".join(progress["kinds"]) or "nothing"
        out.append(f"    {split}  {state}: {kinds}; {done}")
        out += [f"      {bad['name']}: {bad['what']}" for bad in progress["problems"]]
    return out


def _array_lines(facts: dict[str, Any]) -> list[str]:
    """Return a line for each image array of a split: its bytes, and those of an encoded row."""
    arrays = {**facts["sizes"], **facts["encoded"]}
    finished = {*map(str, facts["sizes_finished"]), *facts["encoded_finished"]}
    width = max((len(array_text(name)) for name in arrays), default=0)
    lines = []
    for name, array in arrays.items():
        line = f"    {array_text(name):>{width}}  {bytes_text(array['num_bytes'])}"
        if array.get("mean_row_bytes") is not None:
            line += f", {bytes_text(array['mean_row_bytes'])} per readable row"
        if array.get("encoder") is not None:
            line += f"; {array['encoder']}"
        lines.append(line if name in finished else f"{line}  (not finished)")
    return lines


def _info_split_lines(split: str, facts: dict[str, Any], limit: int | None) -> list[str]:
    state = "finished" if facts["finished"] else "not finished"
    done = f"{facts['rows_committed']:,} rows, {facts['shards_committed']:,} shards; plan missing"
    if facts["rows"] is not None:
        done = (
            f"{facts['rows_committed']:,} of {facts['rows']:,} rows,"
            f" {facts['shards_committed']:,} of {facts['shards']:,} shards"
        )
    out = [f"  {split}  {state}: {done}"]
    out += [
        f"    {bad['name']}: {bad['what']}. Run `tesserae repair`." for bad in facts["problems"]
    ]
    out += _array_lines(facts)
    if facts["passed_over"]:
        out.append(f"    {skipped_text(facts['passed_over'])}")
    bad = {word: count for word, count in facts["counts"].items() if word != "readable"}
    if bad:
        out.append("    quarantined: " + ", ".join(f"{n:,} {word}" for word, n in bad.items()))
    out += [
        f"    {reason.num_rows:,} readable: {reason.reason}, e.g. {reason.key}"
        for reason in by_reason(facts["remarks"])
    ]
    listed = facts["quarantine"][:limit]
    out += [
        f"      row {line['row']}  {line['key']}: {line['word']}, {line['reason']}"
        for line in listed
    ]
    if len(facts["quarantine"]) > len(listed):
        out.append(
            f"      ... and {len(facts['quarantine']) - len(listed):,} more; --all lists them"
        )
    return out
