"""What is damaged of features: every file against its commit, and commits against images.

As with images, nothing is trusted but digests. A document carries its own; done.json has those of
recipe and metadata, commits have those of shard objects and of the pixels that they were made of.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

from pipeline.errors import StoreDamagedError, StoreError
from pipeline.features.probes import KEY, is_another
from pipeline.ingest.verify import Found, Problem, check_object
from pipeline.store import features, layout, records
from pipeline.store.commit import Written
from pipeline.store.features import KINDS, FeatureCommit, FeatureRecipe, FeaturesDone
from pipeline.store.objects import Objects
from pipeline.store.plan import Plan

AGAIN = "run the same `tesserae features` again"


@dataclass(kw_only=True)
class FoundFeatures:
    """Features of one split, as far as their records can be read."""

    name: str
    split: str
    recipe: FeatureRecipe | None = None
    done: FeaturesDone | None = None
    commits: dict[int, FeatureCommit] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def objects(self) -> list[Written]:
        """Every object that some record vouches for."""
        finished = () if self.done is None else self.done.objects
        made = [one for kept in self.commits.values() for one in kept.arrays.values()]
        return [*finished, *made]

    @property
    def kinds(self) -> list[str]:
        """The kinds that there is something of."""
        return [kind for kind in KINDS if any(kind in one.arrays for one in self.commits.values())]


def read_records(objects: Objects, name: str, images: Found) -> FoundFeatures:
    """Read the records of the features *name* of the split of *images*.

    Features that are not finished are a problem too, as are such that were made of other images
    than the store has now.
    """
    found = FoundFeatures(name=name, split=images.split)
    found.problems += _read_recipe(objects, found, images)
    if found.recipe is None:
        return found
    if images.plan is None:
        what = "cannot be checked before the plan of its split is brought back"
        found.problems.append(Problem(layout.features_done(name, found.split), what))
        return found
    found.problems += _read_done(objects, found, images, images.plan)
    found.problems += _read_commits(objects, found, found.recipe, images, images.plan)
    found.problems += _other_networks(found, found.recipe)
    if found.done is None and found.commits:
        found.problems += _metadata(objects, found, found.recipe, images.plan)
    return found


def _read_recipe(objects: Objects, found: FoundFeatures, images: Found) -> Iterator[Problem]:
    file = layout.features_recipe(found.name)
    try:
        recipe = features.load_recipe(objects, found.name)
    except StoreDamagedError:
        yield Problem(file, "damaged")
    except StoreError as e:
        yield Problem(file, "missing" if objects.size(file) is None else str(e))
    except OSError as e:
        yield Problem(file, _unreadable(e))
    else:
        if images.recipe is not None and recipe.images != images.recipe.digest:
            yield Problem(file, "is of images of another store")
            return
        found.recipe = recipe


def _read_done(
    objects: Objects, found: FoundFeatures, images: Found, plan: Plan
) -> Iterator[Problem]:
    file = layout.features_done(found.name, found.split)
    try:
        done = features.load_done(objects, found.name, found.split)
    except StoreDamagedError:
        yield Problem(file, "damaged")
        return
    except OSError as e:
        yield Problem(file, _unreadable(e))
        return
    if done is None:
        yield Problem(file, f"not finished: {AGAIN}")
        return
    digest = found.recipe.digest if found.recipe else ""
    if (done.features, done.plan, done.num_rows) != (digest, plan.digest, plan.num_rows):
        yield Problem(file, "is of other features or another plan")
        return
    if images.done is not None and done.parts != images.done.parts:
        yield Problem(file, f"is of other images than the store holds now: {AGAIN}")
    found.done = done


def _read_commits(
    objects: Objects, found: FoundFeatures, recipe: FeatureRecipe, images: Found, plan: Plan
) -> Iterator[Problem]:
    found.commits = features.load_commits(objects, recipe, plan)
    size = str(recipe.stored_size)
    kinds = set(found.done.kinds) if found.done else set()
    lost = [shard for shard in range(plan.num_shards) if shard not in found.commits]
    files = {shard: layout.features_commit(found.name, found.split, shard) for shard in lost}
    absent = [file for file in files.values() if objects.size(file) is None]
    if absent and not kinds:
        what = f"not finished: {len(absent)} of {plan.num_shards} shards are not committed"
        yield Problem(layout.features_commits(found.name, found.split), what)
    for file in files.values():
        if file not in absent:
            yield Problem(file, "damaged, or of other features or another plan")
        elif kinds:
            yield Problem(file, "missing")
    for shard, kept in found.commits.items():
        file = layout.features_commit(found.name, found.split, shard)
        pixels = images.commits[shard].arrays.get(size) if shard in images.commits else None
        if pixels is not None and pixels.digest != kept.pixels:
            yield Problem(file, f"is of other images than the store holds now: {AGAIN}")
        elif not kinds <= kept.arrays.keys():
            yield Problem(file, f"has no {', '.join(sorted(kinds - kept.arrays.keys()))} features")


def _other_networks(found: FoundFeatures, recipe: FeatureRecipe) -> Iterator[Problem]:
    """Name the shards whose network made other features of the probe pictures than the first's."""
    probes = {shard: kept.provenance.get(KEY) for shard, kept in sorted(found.commits.items())}
    first = next((shard for shard, probe in probes.items() if probe), None)
    if first is None:
        return
    for shard, probe in probes.items():
        if is_another(probes[first], probe, recipe.precision):
            by = found.commits[shard].provenance
            yield Problem(
                layout.features_commit(found.name, found.split, shard),
                f"torch {by.get('torch')} on {by.get('device')} made other features of the same"
                f" pictures than those of shard {first} are: make all on machines of one kind",
            )


def _metadata(
    objects: Objects, found: FoundFeatures, recipe: FeatureRecipe, plan: Plan
) -> Iterator[Problem]:
    """Of metadata that no finish step vouches for yet."""
    from pipeline.store import arrays  # here: who only reads records needs no zarr

    for name, data in arrays.feature_arrays(recipe, plan, found.kinds):
        problem = check_object(objects, records.fingerprint(name, data))
        if problem is not None:
            yield problem


def _unreadable(error: OSError) -> str:
    return f"cannot be read: {error.strerror or error}"


def check_objects(
    objects: Objects, found: FoundFeatures, *, threads: int = 0
) -> Iterator[tuple[Written, Problem | None]]:
    """Read every object that a record vouches for, and yield it with what is wrong with it."""
    workers = threads or min(records.READERS, os.cpu_count() or 1)
    todo = iter(found.objects)
    with ThreadPoolExecutor(workers, "check") as pool:
        while group := list(islice(todo, 8 * workers)):
            yield from pool.map(lambda one: (one, check_object(objects, one)), group)


def unknown_splits(known: Sequence[str], splits: Sequence[str], name: str) -> list[Problem]:
    """Those of *splits*, of the features *name*, that the store has not."""
    return [
        Problem(layout.features_commits(name, split), "is of a split that the store has not")
        for split in splits
        if split not in known
    ]


def strangers(objects: Objects, found: FoundFeatures) -> list[str]:
    """Objects in the folders of finished features that no record knows. They do no harm."""
    if found.done is None:
        return []
    known = {written.name for written in found.objects}
    commits = layout.features_commits(found.name, found.split)
    known |= {layout.features_commit(found.name, found.split, shard) for shard in found.commits}
    arrays = layout.features_array(found.name, found.split, "").rstrip("/")
    listed = [*objects.names(arrays), *objects.names(commits)]
    return [name for name in listed if name not in known]
