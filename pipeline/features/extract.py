"""A run that makes features of a split: settled first, then task by task, then the record of it.

settle -> lease -> begin -> (repair) -> missing -> clear -> tasks -> finish
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace

from pipeline.backbone.network import Backbone
from pipeline.errors import StoreDamagedError, StoreError, StoreMismatchError
from pipeline.features.probes import KEY
from pipeline.features.shard import FeatureWork, make_features, still_there
from pipeline.ingest.finish import parts_digest, put_changed, whole_commits
from pipeline.jobs import Job
from pipeline.store import arrays, features, layout, records
from pipeline.store.features import KINDS, FeatureRecipe, FeaturesDone
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

    Features that the store has already keep their name, however the network's folder is called now.

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
    made = FeatureRecipe(
        trunk=backbone.name,
        weights=backbone.digest,
        cut=backbone.cut or "",
        pooling=backbone.pooling,
        stored_size=size,
        input_size=backbone.size,
        mean=backbone.mean,
        std=backbone.std,
        channels=backbone.transform.channels,
        precision=choices.precision,
        dtype=choices.dtype,
        dim=backbone.dim,
        images=images.digest,
        shard_rows=images.shard_rows,
        chunk_rows=images.chunk_rows,
        format=images.format,
    )
    return _known(objects, made) or made


def _fitting(sizes: Sequence[int], wanted: int) -> int:
    return min((size for size in sizes if size >= wanted), default=max(sizes))


def _known(objects: Objects, recipe: FeatureRecipe) -> FeatureRecipe | None:
    """The same recipe under the name that the store has it by."""
    ending = recipe.name.rpartition("-")[2]
    for name in features.names(objects):
        if name == recipe.name or not name.endswith(f"-{ending}"):
            continue
        try:
            found = features.load_recipe(objects, name)
        except StoreError:  # lost or damaged: it is written again, if it was this one
            found = replace(recipe, trunk=name.removesuffix(f"-{ending}"))
        if found.digest == recipe.digest and found.name == name:
            return found
    return None


def new_run(name: str, split: str) -> str:
    """A name for a run, by which its temp files and tasks are told from others'."""
    return f"{held(name, split)}-{uuid.uuid4().hex[:8]}"


def held(name: str, split: str) -> str:
    """What a run holds the lease of."""
    return f"features.{name}.{split}"


def begin(objects: Objects, recipe: FeatureRecipe, plan: Plan, kinds: Iterable[str]) -> None:
    """Write what readers need, before the first task.

    Raises:
        StoreMismatchError: Features of another recipe have this name.
    """
    name = layout.features_recipe(recipe.name)
    try:
        there = features.load_recipe(objects, recipe.name)
    except StoreMismatchError:
        raise
    except StoreDamagedError:
        objects.put(name, recipe.encode())
    except StoreError:
        objects.put_new(name, recipe.encode())
    else:
        if there.digest != recipe.digest:
            raise StoreMismatchError(
                f"{name} is of features with digest {there.digest}: expected {recipe.digest}. Move"
                " its folder away."
            )
    for file, data in arrays.feature_arrays(recipe, plan, kinds):
        put_changed(objects, file, data)


def known_probe(objects: Objects, recipe: FeatureRecipe) -> str:
    """Return the probe of a commit of these features, of any split; empty where none has one."""
    for split in features.splits_of(objects).get(recipe.name, []):
        plan = records.load_plan(objects, split)
        for commit in features.load_commits(objects, recipe, plan).values():
            if isinstance(probe := commit.provenance.get(KEY), str):
                return probe
    return ""


def missing(objects: Objects, recipe: FeatureRecipe, plan: Plan, kinds: Iterable[str]) -> list[int]:
    """The shards that lack features of one of *kinds*, or whose images are others by now."""
    wanted = set(kinds)
    found = whole_kinds(objects, recipe, plan)
    return [shard for shard, there in enumerate(found) if not wanted <= there]


def whole_kinds(objects: Objects, recipe: FeatureRecipe, plan: Plan) -> list[set[str]]:
    """Of each shard the kinds that are committed, of the images that the store has, and there.

    There: as large as they were. That all their bytes are those of before, `damaged` says.
    """
    made = features.load_commits(objects, recipe, plan)
    images = records.load_commits(objects, plan)
    size = str(recipe.stored_size)

    def whole(shard: int) -> set[str]:
        kept, seen = made.get(shard), images.get(shard)
        if kept is None or seen is None or size not in seen.arrays:
            return set()
        return set(still_there(objects, kept)) if kept.pixels == seen.arrays[size].digest else set()

    with ThreadPoolExecutor(records.READERS) as pool:
        return list(pool.map(whole, range(plan.num_shards)))


def damaged(objects: Objects, recipe: FeatureRecipe, plan: Plan) -> list[str]:
    """Read all that commits vouch for; returns the names of what is not as it was written."""
    made = features.load_commits(objects, recipe, plan)
    written = [one for kept in made.values() for one in kept.arrays.values()]
    with ThreadPoolExecutor(records.READERS) as pool:
        whole = pool.map(lambda one: records.is_there(objects, one), written)
        return [one.name for one, there in zip(written, whole, strict=True) if not there]


def clear(objects: Objects, recipe: FeatureRecipe, plan: Plan, names: Iterable[str]) -> None:
    """Remove shard objects that are to be made anew, so that tasks can tell theirs from them.

    The record that all is there goes first, if it vouches for one of them.
    """
    folders = {kind: layout.features_array(recipe.name, plan.split, kind) for kind in KINDS}
    there = {name for folder in folders.values() for name in objects.names(folder)}
    gone = sorted(there & set(names))
    vouched = tuple(f"{folders[kind]}/" for kind in promised(objects, recipe, plan))
    if any(name.startswith(vouched) for name in gone):
        objects.remove(layout.features_done(recipe.name, plan.split))
    for name in gone:
        objects.remove(name)


def promised(objects: Objects, recipe: FeatureRecipe, plan: Plan) -> tuple[str, ...]:
    """The kinds that a split's record vouches for; where it is damaged, those all commits have."""
    try:
        done = features.load_done(objects, recipe.name, plan.split)
    except StoreDamagedError:
        made = features.load_commits(objects, recipe, plan).values()
        return tuple(k for k in KINDS if made and all(k in kept.arrays for kept in made))
    return () if done is None else done.kinds


def leftovers(
    objects: Objects, recipe: FeatureRecipe, plan: Plan, kinds: Iterable[str]
) -> list[str]:
    """Shard objects of *kinds* that no commit vouches for, or one of other images."""
    whole = whole_kinds(objects, recipe, plan)
    return [
        layout.features_shard(recipe.name, plan.split, kind, shard)
        for shard, there in enumerate(whole)
        for kind in kinds
        if kind not in there
    ]


def feature_jobs(work: FeatureWork, shards: Sequence[int], slots: int = 1) -> list[Job]:
    """The tasks that make the features of *shards*.

    Args:
        work: What the run is.
        shards: Which.
        slots: Tasks that run at once. The last of them, fewer than that, have more threads each,
            so that none of the processors waits for the end.
    """
    options = {"resources": {"GPU": 1}} if work.gpu else {}
    last = len(shards) % slots
    threads = slots // last if last else 1
    return [
        Job(
            f"features-{work.split}-{shard:06d}",
            make_features,
            (work, shard, threads if place >= len(shards) - last else 1),
            options,
        )
        for place, shard in enumerate(shards)
    ]


def finish(objects: Objects, recipe: FeatureRecipe, plan: Plan) -> FeaturesDone:
    """Write the record that a split's features are all there, of the kinds that all shards have.

    Raises:
        StoreError: Features of a shard are not there, or the images are being made anew.
    """
    whole = whole_kinds(objects, recipe, plan)
    kinds = tuple(kind for kind in KINDS if all(kind in there for there in whole))
    if not kinds:
        absent = [shard for shard, there in enumerate(whole) if KINDS[0] not in there]
        raise StoreError(
            f"features {recipe.name} of split {plan.split!r} are not finished: {len(absent)} of"
            f" {plan.num_shards} shards are not committed (the first is {min(absent, default=0)})."
            " Run the same `tesserae features` again to go on."
        )
    text = features.load_recipe(objects, recipe.name).encode()
    written = [(layout.features_recipe(recipe.name), text)]
    for name, data in arrays.feature_arrays(recipe, plan, kinds):
        put_changed(objects, name, data)
        written.append((name, data))
    done = FeaturesDone(
        features=recipe.digest,
        split=plan.split,
        plan=plan.digest,
        num_rows=plan.num_rows,
        kinds=kinds,
        parts=_parts(objects, plan),
        objects=tuple(records.fingerprint(name, data) for name, data in written),
        format=recipe.format,
    )
    _sync(objects, done, layout.features_commits(recipe.name, plan.split))
    name = layout.features_done(recipe.name, plan.split)
    put_changed(objects, name, done.encode())
    objects.sync(name.rpartition("/")[0])
    return done


def _parts(objects: Objects, plan: Plan) -> str:
    """The digest by which the split's record says of each row which picture it is of."""
    done = records.load_done(objects, plan.split)
    if done is None or done.parts != parts_digest(whole_commits(objects, plan)):
        raise StoreError(
            f"the images of split {plan.split!r} were made anew since the split was finished. When"
            " `tesserae verify` says that it is whole, run the same command again."
        )
    return done.parts


def is_done(objects: Objects, recipe: FeatureRecipe, plan: Plan, kinds: Iterable[str]) -> bool:
    """Whether there is nothing to do, as far as can be seen without reading shards."""
    try:
        done = features.load_done(objects, recipe.name, plan.split)
        images = records.load_done(objects, plan.split)
    except StoreDamagedError:
        return False
    if done is None or images is None or done.parts != images.parts:
        return False
    if (done.features, done.plan) != (recipe.digest, plan.digest) or not set(kinds) <= {
        *done.kinds
    }:
        return False
    vouched = all(records.is_there(objects, written) for written in done.objects)
    return vouched and not missing(objects, recipe, plan, done.kinds)


def why_made(objects: Objects, recipe: FeatureRecipe, plan: Plan, kinds: Iterable[str]) -> str:
    """Return how features that are stored of a split differ from those that are wanted.

    Args:
        objects: The store.
        recipe: Of the features that are wanted.
        plan: Of the split.
        kinds: Those that are wanted.

    Returns:
        A few words about the nearest features; empty where none of the split are finished.
    """
    stored = {}
    for name in features.names(objects):
        with suppress(StoreError):  # damaged ones are for `tesserae verify`
            done = features.load_done(objects, name, plan.split)
            if done is not None:
                stored[name] = features.load_recipe(objects, name), done
    if not stored:
        return ""
    apart = {name: _apart(there, recipe) for name, (there, _) in stored.items()}
    name = min(apart, key=lambda name: (len(apart[name]), name))
    if apart[name]:
        return f"those stored as {name} have {', '.join(apart[name])}"
    if not {*kinds} <= {*stored[name][1].kinds}:
        return (
            f"those stored as {name} are not --mirrored (`train devise --no-mirrored` needs none"
            " that are)"
        )
    return f"some of those stored as {name} are missing, or of other images than the store holds"


def _apart(there: FeatureRecipe, wanted: FeatureRecipe) -> list[str]:
    """What differs between two recipes, in the words of options."""
    found = []
    if there.weights != wanted.weights:
        same = there.trunk == wanted.trunk
        found.append(f"the trunk {there.trunk}" + (" with other weights" if same else ""))
    for field, word, unit in (
        ("cut", "cut", ""),
        ("pooling", "pooling", ""),
        ("stored_size", "size", " px"),
        ("precision", "precision", ""),
        ("dtype", "dtype", ""),
    ):
        was, now = getattr(there, field), getattr(wanted, field)
        if was != now:
            found.append(f"{word} {was or 'at the end'}{unit}, not {now or 'at the end'}{unit}")
    if not found and there.digest != wanted.digest:
        found.append("another transform of the images, or another recipe of the store")
    return found


def _sync(objects: Objects, done: FeaturesDone, commits: str) -> None:
    """Make durable that all is there that *done* will vouch for.

    Whoever wrote it may have been killed between the rename and the sync of the folder.
    """
    for folder in sorted({commits, *(one.name.rpartition("/")[0] for one in done.objects)}):
        objects.sync(folder)
