"""The steps of a run that computes derived rows of a split, in the order in which it takes them.

resolve_feature_recipe    the recipe of features, with the name that the store has already
write_metadata            the recipe and the metadata of the arrays, before the first task
damaged_objects           with --repair: the objects to recompute
missing_shards            the shards that lack rows
remove_shards             objects that no commit lists, since tasks never replace an object
row_jobs                  a task for each of these shards
finish                    the record that the rows of the split are complete
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

from pipeline.backbone.network import Backbone
from pipeline.errors import StoreDamagedError, StoreError, StoreMismatchError
from pipeline.features.probes import KEY
from pipeline.features.shard_task import compute_shard, intact_arrays
from pipeline.features.worker import RowTaskConfig
from pipeline.ingest.finish import all_commits, parts_digest, put_changed
from pipeline.jobs import Job
from pipeline.loader.crops import Crop
from pipeline.store import arrays, derived, features, records
from pipeline.store.derived import DerivedFinishRecord, DerivedRecipe
from pipeline.store.encoding import fitting_encoding, parse_encoding
from pipeline.store.features import FeatureOptions, FeatureRecipe
from pipeline.store.fingerprint import fingerprint, is_intact
from pipeline.store.objects import Objects
from pipeline.store.plan import Plan
from pipeline.store.records import FinishRecord


def resolve_feature_recipe(
    objects: Objects, split: str, backbone: Backbone, options: FeatureOptions
) -> FeatureRecipe:
    """Return the recipe of features of a finished split, without writing anything.

    Features that the store has already keep their name, even if the network's folder was renamed.

    Args:
        objects: The objects of the store.
        split: The name of the split.
        backbone: The network that computes the features, as `pipeline.backbone.load.open_backbone`
            returns it.
        options: The choices of the user: `stored_size` in pixels or `encoded`, `precision`
            (`float32` or `bfloat16`) and `dtype` (`float32` or `float16`). Without either of the
            first two, the size is the smallest of the split that the network need not enlarge, or
            the largest if it must enlarge all; of a split without squares, the encoded rows are
            read that suit the network best.

    Returns:
        The recipe; its `name` is the name of the features, that of their folder in `features/`, as
        `resnet50-0123456789ab`.

    Raises:
        StoreError: There is no such store, or the split is not finished or lacks the size or the
            encoded rows.
        ValueError: The precision or the dtype is another than these.
        TesseraeError: The network fails on images of its size.
    """
    images = records.load_recipe(objects)
    done = records.load_finish_record(objects, split)
    if done is None:
        raise StoreError(
            f"split {split!r} is not finished. Run `tesserae prepare` again to continue."
        )
    share = backbone.transform.crop_share
    encoded = _encoded_rows(done, options, backbone.size / share)
    size = options.stored_size or fitting_size(done.sizes, backbone.size)
    if encoded is not None:
        size = backbone.size
    elif size not in done.sizes:
        available = ", ".join(done.array_names)
        raise StoreError(f"split {split!r} has no images of {size} px: it has {available}.")
    recipe = FeatureRecipe(
        trunk=backbone.name,
        weights=backbone.digest,
        cut=backbone.cut or "",
        pooling=backbone.pooling,
        stored_size=size,
        input_size=backbone.size,
        mean=backbone.mean,
        std=backbone.std,
        channels=backbone.transform.channels,
        precision=options.precision,
        dtype=options.dtype,
        dim=backbone.dim,
        images=images.digest,
        shard_rows=images.shard_rows,
        chunk_rows=images.chunk_rows,
        format=images.format,
        encoded=encoded,
        crop=None if encoded is None else Crop(share=share).text,
    )
    return _stored_feature_recipe(objects, recipe) or recipe


def _encoded_rows(done: FinishRecord, options: FeatureOptions, short_side: float) -> str | None:
    """Return the name of the encoded rows to read; None for squares."""
    if options.encoded is not None:
        encoding = parse_encoding(options.encoded)
        if encoding.array_name not in done.encoded:
            raise StoreError(
                f"split {done.split!r} has no encoded rows {encoding.text}: it has"
                f" {', '.join(done.array_names)}. Add them with `tesserae prepare ... --encoded"
                f" {encoding.text}`."
            )
        return encoding.array_name
    if done.sizes or options.stored_size is not None:
        return None
    return fitting_encoding(done.encoded, math.ceil(short_side)).array_name


def fitting_size(sizes: Sequence[int], network_size: int) -> int:
    """Return the stored size that a network reads: its own, or else a larger or the largest one.

    Args:
        sizes: The sides of the stored squares in pixels; may be empty.
        network_size: The side in pixels of the images that the network takes.

    Returns:
        The smallest of *sizes* that is at least *network_size*; the largest if there is none; and
        *network_size* if there are no sizes.
    """
    largest = max(sizes, default=network_size)
    return min((size for size in sizes if size >= network_size), default=largest)


def _stored_feature_recipe(objects: Objects, recipe: FeatureRecipe) -> FeatureRecipe | None:
    """Return the recipe of the same features that the store has, with its name; None: none."""
    ending = recipe.name_ending
    for name in features.names(objects):
        if name == recipe.name or not name.endswith(f"-{ending}"):
            continue
        try:
            stored = features.load_feature_recipe(objects, name)
        except StoreError:  # lost or damaged: assume it was this recipe, and compare the digest
            stored = replace(recipe, trunk=name.removesuffix(f"-{ending}"))
        if stored.digest == recipe.digest and stored.name == name:
            return stored
    return None


def new_run(recipe: DerivedRecipe, split: str) -> str:
    """Return a new unique name for a run, which marks its temporary files and its tasks.

    Args:
        recipe: The recipe of the rows.
        split: The name of the split.

    Returns:
        `<folder of the family>.<name>.<split>-` and eight random hexadecimal digits.
    """
    return f"{lease_name(recipe, split)}-{uuid.uuid4().hex[:8]}"


def lease_name(recipe: DerivedRecipe, split: str) -> str:
    """Return the name of the lock in the store that a run holds to compute rows of a split.

    Args:
        recipe: The recipe of the rows.
        split: The name of the split.

    Returns:
        `<folder of the family>.<name>.<split>`, such as `features.resnet50-0123456789ab.train`, for
        `pipeline.store.lease.lease`.
    """
    return f"{recipe.family.names.folder}.{recipe.name}.{split}"


def write_metadata(
    objects: Objects, recipe: DerivedRecipe, plan: Plan, kinds: Iterable[str]
) -> None:
    """Write the recipe and the metadata that readers need into the store, before the first task.

    They are `recipe.json` in the folder of the set and the `zarr.json` of each array and group. A
    recipe that is missing or damaged is written, and metadata that differ are replaced.

    Args:
        objects: The objects of the store, whose `begin` was called.
        recipe: The recipe of the rows.
        plan: The plan of the split.
        kinds: The kinds of rows that get metadata, of the recipe's `kinds`; other names are not
            refused.

    Raises:
        StoreMismatchError: Rows of another recipe have this name; nothing is written.
        StoreError: The store cannot be written.
    """
    family = recipe.family
    name = family.names.recipe(recipe.name)
    try:
        stored = derived.load_recipe(objects, type(recipe), recipe.name)
    except StoreMismatchError:
        raise
    except StoreDamagedError:
        objects.put(name, recipe.encode())
    except StoreError:
        objects.put_new(name, recipe.encode())
    else:
        if stored.digest != recipe.digest:
            raise StoreMismatchError(
                f"{name} holds {family.noun} with digest {stored.digest}: expected"
                f" {recipe.digest}. Move its folder away."
            )
    for file, data in arrays.derived_arrays(recipe, plan, kinds):
        put_changed(objects, file, data)


def recorded_probe(objects: Objects, recipe: DerivedRecipe) -> str:
    """Return the probe that a commit of these rows records, of any split.

    A probe is what the network computed for two test images on the machine that wrote the commit.

    Args:
        objects: The objects of the store.
        recipe: The recipe of the rows.

    Returns:
        Base64 text, as `pipeline.features.probes.encode_probe` returns it; the empty string if
        there is no commit with a probe.

    Raises:
        StoreError: The plan of a split that has some of these rows is missing or damaged, or a
            commit has a format that this version does not read.
    """
    for split in derived.splits_of(objects, recipe.family).get(recipe.name, []):
        plan = records.load_plan(objects, split)
        for commit in derived.load_commits(objects, recipe, plan).values():
            if isinstance(probe := commit.provenance.get(KEY), str):
                return probe
    return ""


def missing_shards(
    objects: Objects, recipe: DerivedRecipe, plan: Plan, kinds: Iterable[str]
) -> list[int]:
    """Return the numbers of the shards to compute, ascending; empty if all are complete.

    They lack rows of one of *kinds*, or their images have changed since. Only the sizes of
    objects are compared, not their bytes.

    Args:
        objects: The objects of the store.
        recipe: The recipe of the rows.
        plan: The plan of the split.
        kinds: The kinds that every shard must have, such as `("plain",)`; without any, all shards
            are complete.

    Raises:
        StoreError: A commit has a format that this version does not read, or the request to an
            object store failed.
    """
    required = set(kinds)
    committed = intact_kinds(objects, recipe, plan)
    return [shard for shard, shard_kinds in enumerate(committed) if not required <= shard_kinds]


def intact_kinds(objects: Objects, recipe: DerivedRecipe, plan: Plan) -> list[set[str]]:
    """Return the intact kinds of each shard: committed, and of the images that the store has now.

    Only the sizes of objects are compared; `damaged_objects` compares their bytes.

    Args:
        objects: The objects of the store.
        recipe: The recipe of the rows.
        plan: The plan of the split.

    Returns:
        A set for each shard of the plan, in order, of the recipe's `kinds`; empty for a shard that
        has none.

    Raises:
        StoreError: A commit has a format that this version does not read, or the request to an
            object store failed.
    """
    commits = derived.load_commits(objects, recipe, plan)
    images = records.load_commits(objects, plan)
    array = recipe.array_name

    def kinds_of(shard: int) -> set[str]:
        """Return the kinds of one shard that are of its present images."""
        commit, image_commit = commits.get(shard), images.get(shard)
        if commit is None or image_commit is None:
            return set()
        pixels = image_commit.shard_objects.get(array)
        if pixels is None or commit.pixels != pixels.digest:
            return set()
        return set(intact_arrays(objects, commit))

    with ThreadPoolExecutor(records.READERS) as pool:
        return list(pool.map(kinds_of, range(plan.num_shards)))


def damaged_objects(objects: Objects, recipe: DerivedRecipe, plan: Plan) -> list[str]:
    """Read all objects that the commits of these rows list; return the names of damaged ones.

    Of a split's shards, those without a readable commit of the rows are left out.

    Args:
        objects: The objects of the store.
        recipe: The recipe of the rows.
        plan: The plan of the split.

    Returns:
        The names of shard objects in the store, such as
        `features/<name>/features.zarr/train/plain/c.0.0`; those of missing objects too; empty if
        all are intact.

    Raises:
        StoreError: A commit has a format that this version does not read, or the request to an
            object store failed.
        OSError: The disk reports an error.
    """
    commits = derived.load_commits(objects, recipe, plan)
    written = [record for commit in commits.values() for record in commit.arrays.values()]
    with ThreadPoolExecutor(records.READERS) as pool:
        intact = pool.map(lambda record: is_intact(objects, record), written)
        return [
            record.name for record, undamaged in zip(written, intact, strict=True) if not undamaged
        ]


def remove_shards(
    objects: Objects, recipe: DerivedRecipe, plan: Plan, names: Iterable[str]
) -> None:
    """Remove shard objects that must be computed again, since tasks never replace an object.

    The record that the rows of the split are complete is removed first if it lists the kind of one
    of them.

    Args:
        objects: The objects of the store.
        recipe: The recipe of the rows.
        plan: The plan of the split.
        names: The names of the objects in the store. Those that do not exist, or lie outside the
            folders of these rows of the split, are ignored.

    Raises:
        StoreError: An object cannot be removed.
    """
    layout = recipe.family.names
    folders = {kind: layout.array(recipe.name, plan.split, kind) for kind in recipe.kinds}
    existing = {name for folder in folders.values() for name in objects.names(folder)}
    obsolete = sorted(existing & set(names))
    recorded = tuple(f"{folders[kind]}/" for kind in recorded_kinds(objects, recipe, plan))
    if any(name.startswith(recorded) for name in obsolete):
        objects.remove(layout.done(recipe.name, plan.split))
    for name in obsolete:
        objects.remove(name)


def recorded_kinds(objects: Objects, recipe: DerivedRecipe, plan: Plan) -> tuple[str, ...]:
    """Return the kinds that the record of the split's complete rows lists.

    If that record is damaged, they are the kinds that every commit of the split has.

    Args:
        objects: The objects of the store.
        recipe: The recipe of the rows.
        plan: The plan of the split.

    Returns:
        Some of the recipe's `kinds`; empty without a record, or if it is damaged and there is no
        commit.

    Raises:
        StoreError: A record has a format that this version does not read.
    """
    try:
        done = derived.load_finish_record(objects, type(recipe), recipe.name, plan.split)
    except StoreDamagedError:
        commits = derived.load_commits(objects, recipe, plan).values()
        return tuple(
            kind
            for kind in recipe.kinds
            if commits and all(kind in commit.arrays for commit in commits)
        )
    return () if done is None else done.kinds


def obsolete_shards(
    objects: Objects, recipe: DerivedRecipe, plan: Plan, kinds: Iterable[str]
) -> list[str]:
    """Return the names of shard objects of *kinds* that no commit of the present images lists.

    Args:
        objects: The objects of the store.
        recipe: The recipe of the rows.
        plan: The plan of the split.
        kinds: The kinds of rows, such as `("plain",)`.

    Returns:
        Names in the store, such as `features/<name>/features.zarr/train/plain/c.0.0`, ordered by
        shard: those of all shards before the first task. The objects need not exist.

    Raises:
        StoreError: A commit has a format that this version does not read, or the request to an
            object store failed.
    """
    committed = intact_kinds(objects, recipe, plan)
    return [
        recipe.family.names.shard(recipe.name, plan.split, kind, shard)
        for shard, shard_kinds in enumerate(committed)
        for kind in kinds
        if kind not in shard_kinds
    ]


def row_jobs(config: RowTaskConfig, shards: Sequence[int], slots: int = 1) -> list[Job]:
    """Return the jobs that compute the rows of *shards*, one for each shard, in their order.

    Nothing is submitted: the jobs, named `<folder of the family>-<split>-<shard>` with six digits
    for the shard, are for `pipeline.jobs.run_jobs`, which yields a `RowsReport` for each that
    succeeds. On a worker each job requires one unit of the Dask resource `GPU` if `config.gpu` is
    True.

    Args:
        config: The arguments of the run, which `compute_shard` describes.
        shards: The numbers of the shards, from 0; without any there are no jobs.
        slots: The number of tasks that run at once, at least 1 (default: 1). If fewer are left for
            the last round, they share all the threads, so that no CPU core is idle.
    """
    options = {"resources": {"GPU": 1}} if config.gpu else {}
    num_in_last_round = len(shards) % slots
    threads = slots // num_in_last_round if num_in_last_round else 1
    return [
        Job(
            f"{config.family.names.folder}-{config.split}-{shard:06d}",
            compute_shard,
            (config, shard, threads if index >= len(shards) - num_in_last_round else 1),
            options,
        )
        for index, shard in enumerate(shards)
    ]


def finish(objects: Objects, recipe: DerivedRecipe, plan: Plan) -> DerivedFinishRecord:
    """Write the record that a split's rows are complete, for the kinds that all shards have.

    The record is written last and durably; metadata that differ are replaced before. An equal
    record is left as it is.

    Args:
        objects: The objects of the store, whose `begin` was called.
        recipe: The recipe of the rows.
        plan: The plan of the split.

    Returns:
        The record, whose `kinds` are those that are complete.

    Raises:
        StoreError: No kind of rows is committed for every shard, the images were rebuilt
            meanwhile, or the store cannot be written.
    """
    committed = intact_kinds(objects, recipe, plan)
    family, layout = recipe.family, recipe.family.names
    kinds = tuple(kind for kind in recipe.kinds if all(kind in kinds_of for kinds_of in committed))
    if not kinds:
        absent = [
            shard for shard, kinds_of in enumerate(committed) if recipe.kinds[0] not in kinds_of
        ]
        raise StoreError(
            f"{family.noun} {recipe.name} of split {plan.split!r} are not finished: {len(absent)}"
            f" of {plan.num_shards} shards are not committed (the first is"
            f" {min(absent, default=0)}). Run the same `{family.command}` again to continue."
        )
    text = derived.load_recipe(objects, type(recipe), recipe.name).encode()
    written = [(layout.recipe(recipe.name), text)]
    for name, data in arrays.derived_arrays(recipe, plan, kinds):
        put_changed(objects, name, data)
        written.append((name, data))
    done = recipe.finish_record_of(
        split=plan.split,
        plan=plan.digest,
        num_rows=plan.num_rows,
        kinds=kinds,
        parts=_table_parts_digest(objects, plan),
        objects=tuple(fingerprint(name, data) for name, data in written),
    )
    # The record lists only durable objects, so it is written after they are synced.
    _sync(objects, done, layout.commits(recipe.name, plan.split))
    name = layout.done(recipe.name, plan.split)
    put_changed(objects, name, done.encode())
    objects.sync(name.rpartition("/")[0])
    return done


def _table_parts_digest(objects: Objects, plan: Plan) -> str:
    """Return the digest of the split's table parts, which identifies the image of each row."""
    done = records.load_finish_record(objects, plan.split)
    if done is None or done.parts != parts_digest(all_commits(objects, plan)):
        raise StoreError(
            f"the images of split {plan.split!r} were rebuilt after the split was finished. Run"
            " the same command again once `tesserae verify` finds no damage."
        )
    return done.parts


def is_done(objects: Objects, recipe: DerivedRecipe, plan: Plan, kinds: Iterable[str]) -> bool:
    """Return True if the rows of *kinds* are complete for a split, without reading shards.

    The record of completeness, recipe and metadata are read, and the sizes of shards compared, of
    all kinds that the record lists. It is False, too, if a record is damaged, a shard of any of
    these kinds is missing, or the images have changed since.

    Args:
        objects: The objects of the store.
        recipe: The recipe of the rows.
        plan: The plan of the split.
        kinds: The kinds that are required, such as `("plain",)`.

    Raises:
        StoreError: A record has a format that this version does not read, or the request to an
            object store failed.
        OSError: The disk reports an error.
    """
    try:
        done = derived.load_finish_record(objects, type(recipe), recipe.name, plan.split)
        images = records.load_finish_record(objects, plan.split)
    except StoreDamagedError:
        return False
    if done is None or images is None or done.parts != images.parts:
        return False
    if (done.recipe, done.plan) != (recipe.digest, plan.digest) or not set(kinds) <= {*done.kinds}:
        return False
    recorded = all(is_intact(objects, written) for written in done.objects)
    return recorded and not missing_shards(objects, recipe, plan, done.kinds)


def explain_extraction(
    objects: Objects, recipe: FeatureRecipe, plan: Plan, kinds: Iterable[str]
) -> str:
    """Return how the stored features of a split differ from the requested ones.

    Args:
        objects: The objects of the store.
        recipe: The recipe of the requested features.
        plan: The plan of the split.
        kinds: The requested kinds, of `plain` and `mirrored`, such as `("plain",)`.

    Returns:
        A phrase about the most similar features, such as "those stored as vit-0123456789ab have
        dtype float16, not float32", and also if they do not differ; the empty string if no features
        of the split are finished.
    """
    stored = {}
    for name in features.names(objects):
        with suppress(StoreError):  # `tesserae verify` reports damaged ones
            done = derived.load_finish_record(objects, FeatureRecipe, name, plan.split)
            if done is not None:
                stored[name] = features.load_feature_recipe(objects, name), done
    if not stored:
        return ""
    differences = {
        name: _differences(stored_recipe, recipe) for name, (stored_recipe, _) in stored.items()
    }
    name = min(differences, key=lambda name: (len(differences[name]), name))
    if differences[name]:
        return f"those stored as {name} have {', '.join(differences[name])}"
    if not {*kinds} <= {*stored[name][1].kinds}:
        return (
            f"those stored as {name} lack mirror images (--mirrored; `train devise --no-mirrored`"
            " does not need them)"
        )
    return (
        f"some of those stored as {name} are missing, or belong to images that have changed since"
    )


def _differences(stored: FeatureRecipe, requested: FeatureRecipe) -> list[str]:
    """Return the differences between two recipes, in the words of command-line options."""
    differences = []
    if stored.weights != requested.weights:
        same = stored.trunk == requested.trunk
        differences.append(f"the trunk {stored.trunk}" + (" with other weights" if same else ""))
    if stored.encoded != requested.encoded:
        names = (
            recipe.encoded or f"squares of {recipe.stored_size} px"
            for recipe in (stored, requested)
        )
        differences.append("images {}, not {}".format(*names))
    sizes = () if stored.encoded or requested.encoded else (("stored_size", "size", " px"),)
    for field, label, unit in (
        ("cut", "cut", ""),
        ("pooling", "pooling", ""),
        *sizes,
        ("precision", "precision", ""),
        ("dtype", "dtype", ""),
    ):
        old, new = getattr(stored, field), getattr(requested, field)
        if old != new:
            differences.append(
                f"{label} {old or 'at the end'}{unit}, not {new or 'at the end'}{unit}"
            )
    if not differences and stored.digest != requested.digest:
        differences.append("another transform of the images, or another recipe of the store")
    return differences


def _sync(objects: Objects, done: DerivedFinishRecord, commits: str) -> None:
    """Sync the folders of all objects that *done* will list.

    Their writers may have been killed between the rename and the sync of the folder.
    """
    for folder in sorted({commits, *(record.name.rpartition("/")[0] for record in done.objects)}):
        objects.sync(folder)
