"""A run that makes features of a split: settled first, then task by task, then the record of it."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipeline.backbone import Backbone
from pipeline.errors import StoreError
from pipeline.features.task import FeatureWork, make_features, still_there
from pipeline.ingest.finish import put_changed
from pipeline.ingest.graph import Job
from pipeline.store import arrays, features, layout, records
from pipeline.store.commit import Written
from pipeline.store.features import FeatureCommit, FeatureRecipe, FeaturesDone
from pipeline.store.objects import Objects
from pipeline.store.plan import Plan


@dataclass(frozen=True, kw_only=True)
class FeatureChoices:
    """What a person may choose about features, beside the network."""

    stored_size: int | None = None
    """None: the smallest size of the store that the network need not enlarge, or the largest."""
    precision: str = "float32"
    dtype: str = "float32"


def settle(
    objects: Objects, split: str, backbone: Backbone, choices: FeatureChoices
) -> FeatureRecipe:
    """The recipe of features of a finished split; nothing is written.

    Raises:
        StoreError: The split is not finished, or has no such size.
    """
    images = records.load_recipe(objects)
    done = records.load_done(objects, split)
    if done is None:
        raise StoreError(f"split {split!r} is not finished. Run `tesserae prepare` again to go on.")
    size = choices.stored_size or _fitting(done.sizes, backbone.size)
    if size not in done.sizes:
        held = ", ".join(map(str, done.sizes))
        raise StoreError(f"split {split!r} has no {size} px: it has {held}.")
    return FeatureRecipe(
        trunk=backbone.name,
        weights=backbone.digest,
        cut=backbone.cut or "",
        pooling=backbone.pooling,
        stored_size=size,
        input_size=backbone.size,
        mean=backbone.mean,
        std=backbone.std,
        precision=choices.precision,
        dtype=choices.dtype,
        dim=backbone.dim,
        images=images.digest,
        shard_rows=images.shard_rows,
        chunk_rows=images.chunk_rows,
    )


def _fitting(sizes: Sequence[int], wanted: int) -> int:
    return min((size for size in sizes if size >= wanted), default=max(sizes))


def new_run(name: str, split: str) -> str:
    """A name for a run, by which its temp files and tasks are told from others'."""
    return f"{held(name, split)}-{uuid.uuid4().hex[:8]}"


def held(name: str, split: str) -> str:
    """What a run holds the lease of."""
    return f"features.{name}.{split}"


def begin(objects: Objects, recipe: FeatureRecipe, plan: Plan, kinds: Iterable[str]) -> None:
    """Write what readers need, before the first task."""
    objects.put_new(layout.features_recipe(recipe.name), recipe.encode())
    features.load_recipe(objects, recipe.name)  # it may have been there, and be damaged
    for name, data in arrays.feature_arrays(recipe, plan, kinds):
        put_changed(objects, name, data)


def missing(
    objects: Objects,
    recipe: FeatureRecipe,
    plan: Plan,
    kinds: Iterable[str],
    *,
    repair: bool = False,
) -> list[int]:
    """The shards that lack features of one of *kinds*, or whose images are others by now.

    Args:
        objects: The store.
        recipe: What features.
        plan: Of which split.
        kinds: `plain`, `mirrored`.
        repair: Read what is committed, and count what is damaged as missing; otherwise what has
            another size.
    """
    made = features.load_commits(objects, recipe, plan)
    images = records.load_commits(objects, plan)
    size = str(recipe.stored_size)

    def whole(shard: int) -> bool:
        kept = made.get(shard)
        if kept is None or shard not in images:
            return False
        if kept.pixels != images[shard].arrays[size].digest:
            return False
        return set(kinds) <= still_there(objects, kept, repair=repair).keys()

    with ThreadPoolExecutor(records.READERS) as pool:
        found = list(pool.map(whole, range(plan.num_shards)))
    return [shard for shard, there in enumerate(found) if not there]


def feature_jobs(work: FeatureWork, shards: Iterable[int]) -> list[Job]:
    """The tasks that make the features of *shards*."""
    options = {"resources": {"GPU": 1}} if work.gpu else {}
    return [
        Job(f"features-{work.split}-{shard:06d}", make_features, (work, shard), options)
        for shard in shards
    ]


def finish(objects: Objects, recipe: FeatureRecipe, plan: Plan) -> FeaturesDone:
    """Write the record that a split's features are all there, of the kinds that all shards have.

    Raises:
        StoreError: A shard has no commit.
    """
    commits = features.load_commits(objects, recipe, plan)
    absent = [shard for shard in range(plan.num_shards) if shard not in commits]
    if absent:
        raise StoreError(
            f"features {recipe.name} of split {plan.split!r} are not finished: {len(absent)} of"
            f" {plan.num_shards} shards are not committed (the first is {absent[0]})."
        )
    kinds = common_kinds(commits.values())
    metadata = arrays.feature_arrays(recipe, plan, kinds)
    for name, data in metadata:
        put_changed(objects, name, data)
    done = FeaturesDone(
        features=recipe.digest,
        split=plan.split,
        plan=plan.digest,
        num_rows=plan.num_rows,
        kinds=kinds,
        objects=tuple(records.fingerprint(name, data) for name, data in metadata),
    )
    _sync(objects, recipe, commits.values(), done.objects)
    put_changed(objects, layout.features_done(recipe.name, plan.split), done.encode())
    return done


def common_kinds(commits: Iterable[FeatureCommit]) -> tuple[str, ...]:
    """The kinds that every commit has."""
    sets = [set(kept.arrays) for kept in commits]
    return tuple(kind for kind in features.KINDS if all(kind in found for found in sets))


def _sync(
    objects: Objects,
    recipe: FeatureRecipe,
    commits: Iterable[FeatureCommit],
    metadata: Iterable[Written],
) -> None:
    names = [layout.features_recipe(recipe.name), *(one.name for one in metadata)]
    for kept in commits:
        names.append(layout.features_commit(recipe.name, kept.split, kept.shard))
        names += [one.name for one in kept.arrays.values()]
    for folder in sorted({name.rpartition("/")[0] for name in names}):
        objects.sync(folder)
