"""What is damaged of features: every file against its commit, and commits against images."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.errors import StoreDamagedError, StoreError
from pipeline.ingest.check import Problem, check_object
from pipeline.store import features, layout, records
from pipeline.store.features import FeatureCommit, FeatureRecipe, FeaturesDone
from pipeline.store.objects import Objects
from pipeline.store.plan import Plan


def check_features(objects: Objects, name: str) -> Iterator[tuple[str, Problem | None]]:
    """Read every file of the features *name*, and yield its name with what is wrong with it.

    Features that are not finished are a problem too, as are such that were made of other images
    than the store has now.
    """
    file = layout.features_recipe(name)
    try:
        recipe = features.load_recipe(objects, name)
        images = records.load_recipe(objects)
    except StoreError as e:
        missing = objects.size(file) is None
        what = "missing" if missing else "damaged" if isinstance(e, StoreDamagedError) else str(e)
        yield file, Problem(file, what)
        return
    wrong = recipe.images != images.digest or recipe.name != name
    yield file, Problem(file, "is of another store, or of other features") if wrong else None
    if wrong:
        return
    for split in _splits(objects, name):
        yield from _check_split(objects, recipe, split)


def _splits(objects: Objects, name: str) -> list[str]:
    root = f"{layout.FEATURES}/{name}"
    listed = objects.names(f"{root}/features.zarr") + objects.names(f"{root}/commits")
    found = {file.removeprefix(f"{root}/").split("/")[1] for file in listed}
    done = objects.names(f"{root}/splits")
    found |= {file.rpartition("/")[2].removesuffix(".done.json") for file in done}
    return sorted(found - {"zarr.json"})


def _check_split(
    objects: Objects, recipe: FeatureRecipe, split: str
) -> Iterator[tuple[str, Problem | None]]:
    name = layout.features_done(recipe.name, split)
    try:
        plan = records.load_plan(objects, split)
        images = records.load_commits(objects, plan)
        done = features.load_done(objects, recipe.name, split)
    except StoreDamagedError:
        yield name, Problem(name, "damaged")
        return
    except StoreError:
        yield name, Problem(name, "is of a split that the store has not")
        return
    yield name, _of_done(name, done, recipe, plan)
    for written in done.objects if done else ():
        yield written.name, check_object(objects, written)
    size = str(recipe.stored_size)
    kinds = set(done.kinds) if done else set()
    for shard in range(plan.num_shards):
        file = layout.features_commit(recipe.name, split, shard)
        kept = features.load_commit(objects, recipe, plan, shard)
        pixels = images[shard].arrays[size].digest if shard in images else ""
        yield file, _of_commit(objects, file, kept, kinds, pixels)
        for written in kept.arrays.values() if kept else ():
            yield written.name, check_object(objects, written)


def _of_done(
    name: str, done: FeaturesDone | None, recipe: FeatureRecipe, plan: Plan
) -> Problem | None:
    if done is None:
        return Problem(name, "not finished: run `tesserae features` again")
    if (done.features, done.plan, done.num_rows) != (recipe.digest, plan.digest, plan.num_rows):
        return Problem(name, "is of other features or another plan")
    return None


def _of_commit(
    objects: Objects, name: str, kept: FeatureCommit | None, kinds: set[str], pixels: str
) -> Problem | None:
    if kept is None:
        missing = objects.size(name) is None
        if missing and not kinds:
            return Problem(name, "not finished: run `tesserae features` again")
        return Problem(name, "missing" if missing else "damaged")
    if not kinds <= kept.arrays.keys():
        return Problem(name, f"has no {', '.join(sorted(kinds - kept.arrays.keys()))} features")
    if kept.pixels != pixels:
        return Problem(name, "is of other images than the store holds now")
    return None
