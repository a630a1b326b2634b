"""Verification of features: every file against its commit, and commits against images.

As with images, nothing is trusted but digests. A document carries its own; done.json has those of
recipe and metadata, commits have those of shard objects and of the pixels they were computed from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pipeline.errors import StoreDamagedError, StoreError
from pipeline.features.probes import KEY, probes_differ
from pipeline.ingest.verify import SplitRecords
from pipeline.store import features, layout
from pipeline.store.commit import ObjectRecord
from pipeline.store.features import KINDS, FeatureCommit, FeatureFinishRecord, FeatureRecipe
from pipeline.store.fingerprint import fingerprint
from pipeline.store.integrity import Problem, check_object
from pipeline.store.objects import Objects
from pipeline.store.plan import Plan

RERUN_ADVICE = "run the same `tesserae features` again"
"""The cure of problems that a further run of the command mends."""


@dataclass(kw_only=True)
class FeatureRecords:
    """The features of one split, as far as their records can be read."""

    name: str
    """The name of the features."""
    split: str
    """The name of the split."""
    recipe: FeatureRecipe | None = None
    """The recipe of the features; None if it is missing, damaged or of another store."""
    done: FeatureFinishRecord | None = None
    """The record that the features are complete; None if they are not, or if it is damaged."""
    commits: dict[int, FeatureCommit] = field(default_factory=dict)
    """The readable commits by number of the shard."""
    problems: list[Problem] = field(default_factory=list)
    """The problems of the records, in the order in which they were read."""

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
        return [
            kind for kind in KINDS if any(kind in commit.arrays for commit in self.commits.values())
        ]


def check_feature_records(objects: Objects, name: str, images: SplitRecords) -> FeatureRecords:
    """Read the records of the features *name* of the split of *images*; shards are not read.

    Args:
        objects: The objects of the store.
        name: The name of the features, that of their folder in `features/` of the store.
        images: The records of the images of the split, from `pipeline.ingest.verify.read_records`.

    Returns:
        What could be read: `recipe`, None also if it is of another store's images; `done` (the
        record of completeness), None also if it is of other features or another plan; and `commits`
        by number of the shard, none without a plan. `problems` lists what is wrong, each with the
        `name` of the object and a `description`; no error is raised for them. Unfinished features
        are a problem, too, as are features of other images than the store has now, and those that
        machines computed differently. Features that do not exist are a missing recipe.

    Raises:
        StoreError: A commit or the record of completeness has a format that this version does not
            read, or the request to an object store failed.
    """
    feature_records = FeatureRecords(name=name, split=images.split)
    feature_records.problems += _read_recipe(objects, feature_records, images)
    if feature_records.recipe is None:
        return feature_records
    if images.plan is None:
        reason = "cannot be checked before the plan of its split is restored"
        feature_records.problems.append(
            Problem(layout.features_done(name, feature_records.split), reason)
        )
        return feature_records
    feature_records.problems += _read_done(objects, feature_records, images, images.plan)
    feature_records.problems += _read_commits(
        objects, feature_records, feature_records.recipe, images, images.plan
    )
    feature_records.problems += _other_networks(feature_records, feature_records.recipe)
    if feature_records.done is None and feature_records.commits:
        feature_records.problems += _metadata(
            objects, feature_records, feature_records.recipe, images.plan
        )
    return feature_records


def _read_recipe(
    objects: Objects, feature_records: FeatureRecords, images: SplitRecords
) -> Iterator[Problem]:
    file = layout.features_recipe(feature_records.name)
    try:
        recipe = features.load_feature_recipe(objects, feature_records.name)
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
        feature_records.recipe = recipe


def _read_done(
    objects: Objects, feature_records: FeatureRecords, images: SplitRecords, plan: Plan
) -> Iterator[Problem]:
    file = layout.features_done(feature_records.name, feature_records.split)
    try:
        done = features.load_feature_finish_record(
            objects, feature_records.name, feature_records.split
        )
    except StoreDamagedError:
        yield Problem(file, "damaged")
        return
    except OSError as e:
        yield Problem(file, _unreadable(e))
        return
    if done is None:
        yield Problem(file, f"not finished: {RERUN_ADVICE}")
        return
    digest = feature_records.recipe.digest if feature_records.recipe else ""
    if (done.features, done.plan, done.num_rows) != (digest, plan.digest, plan.num_rows):
        yield Problem(file, "belongs to other features or another plan")
        return
    if images.done is not None and done.parts != images.done.parts:
        yield Problem(file, f"belongs to images that have changed since: {RERUN_ADVICE}")
    feature_records.done = done


def _read_commits(
    objects: Objects,
    feature_records: FeatureRecords,
    recipe: FeatureRecipe,
    images: SplitRecords,
    plan: Plan,
) -> Iterator[Problem]:
    feature_records.commits = features.load_feature_commits(objects, recipe, plan)
    array = recipe.array_name
    kinds = set(feature_records.done.kinds) if feature_records.done else set()
    lost = [shard for shard in range(plan.num_shards) if shard not in feature_records.commits]
    files = {
        shard: layout.features_commit(feature_records.name, feature_records.split, shard)
        for shard in lost
    }
    absent = [file for file in files.values() if objects.size(file) is None]
    if absent and not kinds:
        reason = f"not finished: {len(absent)} of {plan.num_shards} shards are not committed"
        yield Problem(layout.features_commits(feature_records.name, feature_records.split), reason)
    for file in files.values():
        if file not in absent:
            yield Problem(file, "damaged, or belongs to other features or another plan")
        elif kinds:
            yield Problem(file, "missing")
    for shard, commit in feature_records.commits.items():
        file = layout.features_commit(feature_records.name, feature_records.split, shard)
        image_commit = images.commits.get(shard)
        pixels = None if image_commit is None else image_commit.shard_objects.get(array)
        if pixels is not None and pixels.digest != commit.pixels:
            yield Problem(file, f"belongs to images that have changed since: {RERUN_ADVICE}")
        elif not kinds <= commit.arrays.keys():
            yield Problem(
                file, f"has no {', '.join(sorted(kinds - commit.arrays.keys()))} features"
            )


def _other_networks(feature_records: FeatureRecords, recipe: FeatureRecipe) -> Iterator[Problem]:
    """Yield the shards whose network made other features of the test images than the first's."""
    probes = {
        shard: commit.provenance.get(KEY)
        for shard, commit in sorted(feature_records.commits.items())
    }
    first = next((shard for shard, probe in probes.items() if probe), None)
    if first is None:
        return
    for shard, probe in probes.items():
        if probes_differ(probes[first], probe, recipe.precision):
            provenance = feature_records.commits[shard].provenance
            yield Problem(
                layout.features_commit(feature_records.name, feature_records.split, shard),
                f"torch {provenance.get('torch')} on {provenance.get('device')} computed different"
                f" features for the same images than shard {first}: compute all on machines of one"
                " kind",
            )


def _metadata(
    objects: Objects, feature_records: FeatureRecords, recipe: FeatureRecipe, plan: Plan
) -> Iterator[Problem]:
    """Check the metadata that no finish record lists yet."""
    from pipeline.store import arrays  # imported late: reading records alone needs no zarr

    for name, data in arrays.feature_arrays(recipe, plan, feature_records.kinds):
        problem = check_object(objects, fingerprint(name, data))
        if problem is not None:
            yield problem


def _unreadable(error: OSError) -> str:
    return f"cannot be read: {error.strerror or error}"


def unknown_splits(store_splits: Sequence[str], splits: Sequence[str], name: str) -> list[Problem]:
    """Return a problem for each split of features that the store does not have; nothing is read.

    Args:
        store_splits: The names of the splits of the store.
        splits: The names of the splits of the features.
        name: The name of the features.

    Returns:
        The problems, in the order of *splits*, each with the `name` of the folder of the split's
        commits in the store and a `description`; empty if the store has all of them.
    """
    return [
        Problem(
            layout.features_commits(name, split), "belongs to a split that the store does not have"
        )
        for split in splits
        if split not in store_splits
    ]


def unknown_feature_objects(objects: Objects, feature_records: FeatureRecords) -> list[str]:
    """Return the names of objects in the folders of finished features that no record lists.

    They do no harm. The folders of the split's arrays and commits are listed, and no object is
    read.

    Args:
        objects: The objects of the store.
        feature_records: The records of the features of a split, as `check_feature_records` returns
            them.

    Returns:
        The names of objects in the store; none for unfinished features, whose tasks may still
        write.

    Raises:
        StoreError: The request to an object store failed.
    """
    if feature_records.done is None:
        return []
    known_names = {written.name for written in feature_records.objects}
    commits = layout.features_commits(feature_records.name, feature_records.split)
    known_names |= {
        layout.features_commit(feature_records.name, feature_records.split, shard)
        for shard in feature_records.commits
    }
    arrays = layout.features_array(feature_records.name, feature_records.split, "").rstrip("/")
    listed = [*objects.names(arrays), *objects.names(commits)]
    return [name for name in listed if name not in known_names]
