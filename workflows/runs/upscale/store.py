"""The implementation of `tesserae upscale --store`: jobs that enlarge the images of a store."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from pipeline.errors import StoreError, StoreMismatchError, TesseraeError
from pipeline.store import derived, layout, records
from pipeline.store.objects import Objects
from pipeline.store.open import open_objects
from pipeline.store.upscaled import UpscaledCommit, UpscaledRecipe
from workflows import cluster_kinds
from workflows.preparation.derived_rows import (
    RowsRequest,
    compute_rows,
    rows_cluster,
)
from workflows.preparation.stored_splits import requested_splits
from workflows.runs.options import UpscaleOptions
from workflows.superres.derived_rows import UpscalerNetwork, UpscaleTaskConfig, weights_digest
from workflows.superres.model import TrainedUpscaler, open_upscaler

DEFAULT_PRECISION = "float32"
"""The number format that networks compute in unless the options name one."""


def run_upscale_store(options: UpscaleOptions) -> int:
    """Enlarge the images of every requested split, and print the name of the new array.

    Args:
        options: The options of the command, with `store`: `run`, the folder of the training run;
            `store`; `size`, the side of the enlarged images in pixels; `name`, that of the set
            (None for one of network, scale and size); `split` (names, or `("all",)` for all
            finished ones), `precision` (None for float32), `self_ensemble`, `gpus` (their number;
            None for all, 0 for none), `repair`, `wait` and those of the cluster.

    Returns:
        The exit status, 0; errors are raised. In a worker that Slurm has started, tasks run until
        the run ends, and nothing is printed.

    Raises:
        ClusterError: The cluster cannot be used.
        KeyboardInterrupt: The run was stopped; committed shards are kept.
        StoreError: There is no store, a requested split is missing, not finished or without the
            images that are enlarged, or there is too little free space.
        StoreMismatchError: The store has upscaled images of this name by another network, or with
            other settings.
        TesseraeError: There is no trained network of this stage, the size is no multiple of its
            scale, or a shard failed.
    """
    assert options.store is not None  # as the options of a store are checked
    cluster_kinds.check_cluster_option(options.cluster)
    objects = open_objects(options.store)
    splits = requested_splits(objects, options.split)
    if cluster_kinds.run_as_slurm_worker(options):
        return 0
    folder = options.run.absolute()  # workers run in other working directories
    trained = open_upscaler(folder, precision=options.precision or DEFAULT_PRECISION)
    recipe = resolve_upscaled_recipe(objects, trained, options)
    for split in splits:  # all of them before the first task
        check_split(objects, split, recipe)
    network = UpscalerNetwork(
        trained, stored_size=recipe.stored_size, self_ensemble=recipe.self_ensemble
    )
    request = RowsRequest(
        recipe=recipe,
        kinds=recipe.kinds,
        probe=network.probe(),
        tasks=partial(UpscaleTaskConfig, folder=str(folder)),
        repair=options.repair,
        wait=options.wait,
        gpus=options.gpus,
    )
    del trained, network  # frees their memory: tasks load the network themselves
    try:
        with rows_cluster(options, options.gpus) as cluster:
            for split in splits:
                compute_rows(objects, records.load_plan(objects, split), request, cluster)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("Run the same command again to continue.") from None
    print(f"{options.store}: upscaled images {recipe.name}, {recipe.size} px", flush=True)
    return 0


def resolve_upscaled_recipe(
    objects: Objects, trained: TrainedUpscaler, options: UpscaleOptions
) -> UpscaledRecipe:
    """Return the recipe of the upscaled images, without writing anything.

    Args:
        objects: The objects of the store.
        trained: The network.
        options: The options of the command.

    Raises:
        StoreMismatchError: The store has upscaled images of this name by another network, or with
            other settings.
        StoreError: There is no store.
        TesseraeError: The size is no multiple of the network's scale.
    """
    scale, size = trained.scale, options.size
    assert size is not None  # as the options of a store are checked
    if size % scale:
        raise TesseraeError(
            f"--size is {size}: the network of {options.run} enlarges by {scale}, so that it must"
            f" be a multiple of {scale}, such as {max(1, size // scale) * scale}."
        )
    images = records.load_recipe(objects)
    recipe = UpscaledRecipe(
        name=options.name or f"{trained.options.network}-x{scale}-{size}",
        network=trained.options.network,
        weights=weights_digest(trained),
        step=trained.step,
        scale=scale,
        stored_size=size // scale,
        self_ensemble=options.self_ensemble,
        precision=options.precision or DEFAULT_PRECISION,
        images=images.digest,
        shard_rows=images.shard_rows,
        chunk_rows=images.chunk_rows,
        format=images.format,
    )
    _check_same_recipe(objects, recipe)
    return recipe


def _check_same_recipe(objects: Objects, recipe: UpscaledRecipe) -> None:
    """Refuse the name of upscaled images that the store has of another recipe."""
    try:
        stored = derived.load_recipe(objects, UpscaledRecipe, recipe.name)
    except StoreMismatchError:
        raise
    except StoreError:  # missing or damaged: it is written again if the commits are of this one
        differences = _differences_of_commits(objects, recipe)
    else:
        differences = stored.differences(recipe)
    if differences:
        raise StoreMismatchError(
            f"{objects.url} has upscaled images {recipe.name} with {'; '.join(differences)}. Pass"
            f" another --name, or remove {layout.UPSCALED.set_folder(recipe.name)} to compute them"
            " anew."
        )


def _differences_of_commits(objects: Objects, recipe: UpscaledRecipe) -> list[str]:
    """Return a phrase if a commit of this name belongs to another recipe."""
    for name in objects.names(f"{layout.UPSCALED.set_folder(recipe.name)}/commits"):
        with suppress(StoreError):  # damaged ones are computed again
            commit = derived.decode_document(UpscaledCommit, objects.get(name), name)
            if commit.upscaled != recipe.digest:
                return ["a lost recipe that was another one"]
    return []


def check_split(objects: Objects, split: str, recipe: UpscaledRecipe) -> None:
    """Check that a split is finished and has the images that are enlarged.

    Args:
        objects: The objects of the store.
        split: The name of the split.
        recipe: The recipe of the upscaled images.

    Raises:
        StoreError: It is not, or has not.
    """
    done = records.load_finish_record(objects, split)
    if done is None:
        raise StoreError(
            f"split {split!r} is not finished. Run `tesserae prepare` again to continue."
        )
    if recipe.stored_size not in done.sizes:
        possible = [
            str(size * recipe.scale)
            for size in done.sizes
            if size * recipe.scale <= layout.MAX_SIZE
        ]
        instead = f", or pass --size {' or '.join(possible)}" if possible else ""
        raise StoreError(
            f"split {split!r} has no images of {recipe.stored_size} px, which the network enlarges"
            f" by {recipe.scale} to {recipe.size} px: it has {', '.join(done.array_names)}. Add"
            f" them with `tesserae prepare ... --sizes {recipe.stored_size}`{instead}."
        )
