"""Verification of derived rows: every file against its commit, and commits against images.

As with images, nothing is trusted but digests. A document carries its own; done.json has those of
recipe and metadata, commits have those of shard objects and of the pixels they were computed from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pipeline.errors import StoreDamagedError, StoreError
from pipeline.features.probes import KEY, probes_differ
from pipeline.ingest.verify import SplitRecords
from pipeline.store import derived
from pipeline.store.commit import ObjectRecord
from pipeline.store.derived import DerivedCommit, DerivedFinishRecord, DerivedRecipe, Family
from pipeline.store.features import FeatureRecipe
from pipeline.store.fingerprint import fingerprint
from pipeline.store.integrity import Problem, check_object
from pipeline.store.layout import DerivedNames
from pipeline.store.objects import Objects
from pipeline.store.plan import Plan
from pipeline.store.upscaled import UpscaledRecipe

RECIPES: tuple[type[DerivedRecipe], ...] = (FeatureRecipe, UpscaledRecipe)
"""The class of the recipes of each family of derived rows."""


@dataclass(kw_only=True)
class DerivedRecords:
    """The derived rows of one split, as far as their records can be read."""

    kind: type[DerivedRecipe]
    """The class of the recipe, which says the family."""
    name: str
    """The name of the set."""
    split: str
    """The name of the split."""
    recipe: DerivedRecipe | None = None
    """The recipe of the rows; None if it is missing, damaged or of another store."""
    done: DerivedFinishRecord | None = None
    """The record that the rows are complete; None if they are not, or if it is damaged."""
    commits: dict[int, DerivedCommit] = field(default_factory=dict)
    """The readable commits by number of the shard."""
    problems: list[Problem] = field(default_factory=list)
    """The problems of the records, in the order in which they were read."""

    @property
    def names(self) -> DerivedNames:
        """The names of the objects of the family."""
        return self.kind.family.names

    @property
    def noun(self) -> str:
        """What the rows are, such as `features`."""
        return self.kind.family.noun

    @property
    def rerun_advice(self) -> str:
        """The cure of problems that a further run of the command mends."""
        return f"run the same `{self.kind.family.command}` again"

    @property
    def objects(self) -> list[ObjectRecord]:
        """Every object that some record lists."""
        finished = () if self.done is None else self.done.objects
        committed = [
            written for commit in self.commits.values() for written in commit.arrays.values()
        ]
        return [*finished, *committed]

    @property
    def kinds(self) -> list[str]:
        """The kinds of which at least one shard is committed."""
        kinds = () if self.recipe is None else self.recipe.kinds
        return [
            kind for kind in kinds if any(kind in commit.arrays for commit in self.commits.values())
        ]


def check_derived_records(
    objects: Objects, kind: type[DerivedRecipe], name: str, images: SplitRecords
) -> DerivedRecords:
    """Read the records of the set *name* for the split of *images*; shards are not read.

    Args:
        objects: The objects of the store.
        kind: The class of the recipe of the family, one of `RECIPES`.
        name: The name of the set, that of its folder in that of the family.
        images: The records of the images of the split, from `pipeline.ingest.verify.read_records`.

    Returns:
        What could be read: `recipe`, None also if it is of another store's images; `done` (the
        record of completeness), None also if it is of other rows or another plan; and `commits`
        by number of the shard, none without a plan. `problems` lists what is wrong, each with the
        `name` of the object and a `description`; no error is raised for them. Unfinished rows are a
        problem, too, as are rows of other images than the store has now, and those that machines
        computed differently. A set that does not exist is a missing recipe.

    Raises:
        StoreError: A commit or the record of completeness has a format that this version does not
            read, or the request to an object store failed.
    """
    row_records = DerivedRecords(kind=kind, name=name, split=images.split)
    row_records.problems += _read_recipe(objects, row_records, images)
    if row_records.recipe is None:
        return row_records
    if images.plan is None:
        reason = "cannot be checked before the plan of its split is restored"
        row_records.problems.append(
            Problem(row_records.names.done(name, row_records.split), reason)
        )
        return row_records
    row_records.problems += _read_done(objects, row_records, images, images.plan)
    row_records.problems += _read_commits(
        objects, row_records, row_records.recipe, images, images.plan
    )
    row_records.problems += _other_networks(row_records, row_records.recipe)
    if row_records.done is None and row_records.commits:
        row_records.problems += _metadata(objects, row_records, row_records.recipe, images.plan)
    return row_records


def _read_recipe(
    objects: Objects, row_records: DerivedRecords, images: SplitRecords
) -> Iterator[Problem]:
    file = row_records.names.recipe(row_records.name)
    try:
        recipe = derived.load_recipe(objects, row_records.kind, row_records.name)
    except StoreDamagedError:
        yield Problem(file, "damaged")
    except StoreError as e:
        yield Problem(file, "missing" if objects.size(file) is None else str(e))
    except OSError as e:
        yield Problem(file, _unreadable(e))
    else:
        if images.recipe is not None and recipe.images != images.recipe.digest:
            yield Problem(file, "belongs to images of another store")
            return
        row_records.recipe = recipe


def _read_done(
    objects: Objects, row_records: DerivedRecords, images: SplitRecords, plan: Plan
) -> Iterator[Problem]:
    file = row_records.names.done(row_records.name, row_records.split)
    try:
        done = derived.load_finish_record(
            objects, row_records.kind, row_records.name, row_records.split
        )
    except StoreDamagedError:
        yield Problem(file, "damaged")
        return
    except OSError as e:
        yield Problem(file, _unreadable(e))
        return
    if done is None:
        yield Problem(file, f"not finished: {row_records.rerun_advice}")
        return
    digest = row_records.recipe.digest if row_records.recipe else ""
    if (done.recipe, done.plan, done.num_rows) != (digest, plan.digest, plan.num_rows):
        yield Problem(file, f"belongs to other {row_records.noun} or another plan")
        return
    if images.done is not None and done.parts != images.done.parts:
        yield Problem(
            file, f"belongs to images that have changed since: {row_records.rerun_advice}"
        )
    row_records.done = done


def _read_commits(
    objects: Objects,
    row_records: DerivedRecords,
    recipe: DerivedRecipe,
    images: SplitRecords,
    plan: Plan,
) -> Iterator[Problem]:
    row_records.commits = derived.load_commits(objects, recipe, plan)
    array = recipe.array_name
    kinds = set(row_records.done.kinds) if row_records.done else set()
    lost = [shard for shard in range(plan.num_shards) if shard not in row_records.commits]
    files = {
        shard: row_records.names.commit(row_records.name, row_records.split, shard)
        for shard in lost
    }
    absent = [file for file in files.values() if objects.size(file) is None]
    if absent and not kinds:
        reason = f"not finished: {len(absent)} of {plan.num_shards} shards are not committed"
        yield Problem(row_records.names.commits(row_records.name, row_records.split), reason)
    for file in files.values():
        if file not in absent:
            yield Problem(file, f"damaged, or belongs to other {row_records.noun} or another plan")
        elif kinds:
            yield Problem(file, "missing")
    for shard, commit in row_records.commits.items():
        file = row_records.names.commit(row_records.name, row_records.split, shard)
        image_commit = images.commits.get(shard)
        pixels = None if image_commit is None else image_commit.shard_objects.get(array)
        if pixels is not None and pixels.digest != commit.pixels:
            yield Problem(
                file, f"belongs to images that have changed since: {row_records.rerun_advice}"
            )
        elif not kinds <= commit.arrays.keys():
            yield Problem(
                file,
                f"has no {', '.join(sorted(kinds - commit.arrays.keys()))} {row_records.noun}",
            )


def _other_networks(row_records: DerivedRecords, recipe: DerivedRecipe) -> Iterator[Problem]:
    """Yield the shards whose network made other rows of the test images than the first's."""
    probes = {
        shard: commit.provenance.get(KEY) for shard, commit in sorted(row_records.commits.items())
    }
    first = next((shard for shard, probe in probes.items() if probe), None)
    if first is None:
        return
    for shard, probe in probes.items():
        if probes_differ(probes[first], probe, recipe.probe_tolerance):
            provenance = row_records.commits[shard].provenance
            yield Problem(
                row_records.names.commit(row_records.name, row_records.split, shard),
                f"torch {provenance.get('torch')} on {provenance.get('device')} computed different"
                f" {row_records.noun} for the same images than shard {first}: compute all on"
                " machines of one kind",
            )


def _metadata(
    objects: Objects, row_records: DerivedRecords, recipe: DerivedRecipe, plan: Plan
) -> Iterator[Problem]:
    """Check the metadata that no finish record lists yet."""
    from pipeline.store import arrays  # imported late: reading records alone needs no zarr

    for name, data in arrays.derived_arrays(recipe, plan, row_records.kinds):
        problem = check_object(objects, fingerprint(name, data))
        if problem is not None:
            yield problem


def _unreadable(error: OSError) -> str:
    return f"cannot be read: {error.strerror or error}"


def unknown_splits(
    store_splits: Sequence[str], splits: Sequence[str], family: Family, name: str
) -> list[Problem]:
    """Return a problem for each split of a set that the store does not have; nothing is read.

    Args:
        store_splits: The names of the splits of the store.
        splits: The names of the splits of the set.
        family: The family of the rows.
        name: The name of the set.

    Returns:
        The problems, in the order of *splits*, each with the `name` of the folder of the split's
        commits in the store and a `description`; empty if the store has all of them.
    """
    return [
        Problem(
            family.names.commits(name, split), "belongs to a split that the store does not have"
        )
        for split in splits
        if split not in store_splits
    ]


def unknown_row_objects(objects: Objects, row_records: DerivedRecords) -> list[str]:
    """Return the names of objects in the folders of finished rows that no record lists.

    They do no harm. The folders of the split's arrays and commits are listed, and no object is
    read.

    Args:
        objects: The objects of the store.
        row_records: The records of the rows of a split, as `check_derived_records` returns them.

    Returns:
        The names of objects in the store; none for unfinished rows, whose tasks may still write.

    Raises:
        StoreError: The request to an object store failed.
    """
    if row_records.done is None:
        return []
    known_names = {written.name for written in row_records.objects}
    commits = row_records.names.commits(row_records.name, row_records.split)
    known_names |= {
        row_records.names.commit(row_records.name, row_records.split, shard)
        for shard in row_records.commits
    }
    arrays = row_records.names.array(row_records.name, row_records.split, "").rstrip("/")
    listed = [*objects.names(arrays), *objects.names(commits)]
    return [name for name in listed if name not in known_names]
