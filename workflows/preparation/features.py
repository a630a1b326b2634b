"""The implementation of `tesserae features`: jobs that run a network over a store's shards."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from pipeline.backbone.choices import NEW
from pipeline.backbone.load import open_backbone
from pipeline.errors import TesseraeError
from pipeline.features import extract
from pipeline.features.worker import FeatureTaskConfig, compute_probe
from pipeline.store import records
from pipeline.store.encoding import fitting_encoding, parse_encoding
from pipeline.store.features import FeatureRecipe
from pipeline.store.objects import Objects
from pipeline.store.open import open_objects
from workflows import cluster_kinds
from workflows.cluster_kinds import CommandCluster
from workflows.preparation.derived_rows import (
    RowsRequest,
    compute_rows,
    rows_cluster,
)
from workflows.preparation.options import FeaturesOptions
from workflows.preparation.stored_splits import requested_splits


def run_features(options: FeaturesOptions) -> int:
    """Compute the features of every requested split, and print their name and dimension.

    Args:
        options: The parsed options of `tesserae features`, such as `store`, `trunk` (the network: a
            folder or a name on the model hub), `split` (names, or `("all",)` for all finished
            ones), `cut`, `pooling`, `gpus` (their number; None for all, 0 for none) and those of
            the cluster.

    Returns:
        The exit status, 0; errors are raised. In a worker that Slurm has started, tasks run until
        the run ends, and nothing is printed.

    Raises:
        ClusterError: The cluster cannot be used.
        KeyboardInterrupt: The run was stopped; committed shards are kept.
        StoreError: There is no store, a requested split is missing or not finished, or there is too
            little free space.
        TesseraeError: There is no such network, or a shard failed.
    """
    cluster_kinds.check_cluster_option(options.cluster)
    splits = requested_splits(open_objects(options.store), options.split)
    if cluster_kinds.run_as_slurm_worker(options):
        return 0
    try:
        with rows_cluster(options, options.gpus) as cluster:
            for split in splits:
                recipe = compute_split_features(options, split, cluster)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("Run the same command again to continue.") from None
    print(f"{options.store}: features {recipe.name}, {recipe.dim:,} dimensions", flush=True)
    return 0


def compute_split_features(
    options: FeaturesOptions, split: str, cluster: CommandCluster
) -> FeatureRecipe:
    """Compute the missing features of a split, and commit them to the store.

    With `--repair`, damaged files are removed and computed again. Nothing is computed if the
    features exist already.

    Args:
        options: The options of the command.
        split: The name of the split, which must be finished.
        cluster: The cluster that runs the tasks, inside its `with` block.

    Returns:
        The recipe of the features, with their `name` (the folder in `features/`) and `dim`.

    Raises:
        ClusterError: The cluster cannot be used.
        StoreError: The split is not finished, another run computes the same features and the
            options lack `--wait`, this machine computes other numbers than the features begun
            before, or there is too little free space.
        TesseraeError: A shard failed, there is no such network, or the cluster has too few GPUs.
            Committed shards are kept.
    """
    if options.trunk == NEW:
        raise TesseraeError(
            f"--trunk {NEW} is untrained: expected a pretrained model, as a folder or a hub name."
        )
    if Path(options.trunk).is_dir():  # workers run in other working directories
        options = replace(options, trunk=str(Path(options.trunk).absolute()))
    objects = open_objects(options.store)
    plan = records.load_plan(objects, split)
    backbone = open_backbone(options.trunk, cut=options.cut, pooling=options.pooling)
    recipe = extract.resolve_feature_recipe(objects, split, backbone, options.feature_options)
    if recipe.encoded is not None and options.encoded is None:
        encoding = parse_encoding(recipe.encoded).text
        print(f"{split}: no stored squares, so that --encoded {encoding} is read", flush=True)
    elif notice := _enlargement_notice(objects, split, recipe):
        print(f"notice: {split}: {notice}", flush=True)
    probe = compute_probe(backbone, recipe.precision)
    del backbone  # frees its memory: tasks load the network themselves
    request = RowsRequest(
        recipe=recipe,
        kinds=options.kinds,
        probe=probe,
        tasks=partial(FeatureTaskConfig, trunk=options.trunk),
        repair=options.repair,
        wait=options.wait,
        gpus=options.gpus,
        room_advice="Free some space, or pass --dtype float16.",
    )

    def explain() -> str:
        """Return why the features are extracted, if similar ones exist."""
        why = extract.explain_extraction(objects, recipe, plan, options.kinds)
        return why and f"{split}: extracting features, because {why}"

    compute_rows(objects, plan, request, cluster, explain)
    return recipe


def _enlargement_notice(objects: Objects, split: str, recipe: FeatureRecipe) -> str:
    """Return a sentence if the network gets enlarged squares, and encoded rows have more detail."""
    done = records.load_finish_record(objects, split)
    if recipe.encoded is not None or recipe.stored_size >= recipe.input_size or done is None:
        return ""
    encodings = [fitting_encoding(done.encoded, recipe.input_size)] if done.encoded else []
    if not any(encoding.suffices_for(recipe.stored_size + 1) for encoding in encodings):
        return ""
    return (
        f"images of {recipe.stored_size} px are enlarged to {recipe.input_size} px, and the split"
        f" has larger ones: pass --encoded {encodings[0].text}."
    )
