"""The measurements of gpu.py that train or run a network: classifier, WGAN, features and DeViSE."""

from __future__ import annotations

import copy
import functools
import gc
import itertools
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gpu_context import Context, fastest_settings, ratio_text
from torch import nn

PRESET = "resnet50-90"
"""The recipe of the classifier that is measured."""
MIN_BATCH = 32
"""The smallest batch that is tried if a larger one does not fit into the GPU's memory."""
WORD_DIM, HIDDEN_UNITS = 300, 1024
"""The dimension of word space, and the units of the hidden layer of DeViSE's head."""

# --- classifier -----------------------------------------------------------------------------------


def classify(context: Context) -> None:
    """Measure training steps on squares and on encoded rows."""
    train_classifier(context, compiled=False)


def compiled(context: Context) -> None:
    """Measure training steps of the compiled network."""
    if context.rehearse and not context.is_gpu:
        # Traced only: to compile C++ takes a minute on one core.
        nn.Module.compile = functools.partialmethod(nn.Module.compile, backend="eager")
    train_classifier(context, compiled=True)


def train_classifier(context: Context, *, compiled: bool) -> None:
    """Measure steps that the loader feeds, beside the same steps on a fixed batch."""
    from workflows.terminal.formatting import counted
    from workflows.training.precision import training_precision

    fastest_settings(context)
    stage = fitting_stage(context, encoded=None, compiled=compiled)
    batch_size = stage.options.batch_size
    dtype = str(training_precision(stage.options.precision, context.device))
    how = f"{dtype.removeprefix('torch.')}, batches of {batch_size}"
    rates, waits = fed_rates(context, stage)
    fixed = fixed_batch_rates(context, stage)
    stage.batches.close()
    ratio = ratio_text(rates, fixed, "the rate on one batch")
    context.report(f"{PRESET} on squares", rates, "images/s", f"{how}, {ratio}")
    context.report("waiting for squares", waits, "% of the time")
    context.report("the same step on one batch", fixed, "images/s", "the batch is on the device")
    if compiled:  # the network would be compiled once more
        return
    del stage
    gc.collect()
    stage = fitting_stage(context, encoded=context.workload.encoding, compiled=False)
    rates, waits = fed_rates(context, stage)
    threads = counted(stage.batches.loader.threads, "thread")
    stage.batches.close()
    how = f"{context.workload.encoding}, {threads}, batches of {stage.options.batch_size}"
    ratio = ratio_text(rates, fixed, "the rate on one batch")
    context.report(f"{PRESET} on encoded rows", rates, "images/s", f"{how}, {ratio}")
    context.report("waiting for encoded rows", waits, "% of the time")


def fitting_stage(context: Context, *, encoded: str | None, compiled: bool) -> Any:
    """Return a stage after its first steps, with the largest batch that the memory holds."""
    batch_size = context.workload.batch_size
    while True:
        stage = make_classifier_stage(context, batch_size, encoded=encoded, compiled=compiled)
        try:
            # So many that no batch is left of those that were gathered while torch chose kernels.
            context.seconds(stage.advance, context.workload.steps)
        except torch.OutOfMemoryError:
            if batch_size <= MIN_BATCH:
                raise
        else:
            return stage
        stage.batches.close()
        del stage
        gc.collect()
        torch.cuda.empty_cache()
        batch_size //= 2


def make_classifier_stage(
    context: Context, batch_size: int, *, encoded: str | None, compiled: bool
) -> Any:
    """Return the stage of the preset, as `tesserae train classify` creates it."""
    from workflows.classify.options import ClassifyOptions
    from workflows.classify.stage import Classify
    from workflows.runs.training_data import open_images
    from workflows.training.run_folder import RunFolder
    from workflows.training.run_options import RunOptions
    from workflows.training.world import World

    workload = context.workload
    named: dict[str, Any] = {"batch_size": batch_size, "encoded": encoded, "compile": compiled}
    if context.rehearse:
        named |= {"width": workload.width, "image_size": workload.image_size}
    options, opened = open_images(
        RunOptions(store=context.store, held_out="none"),
        ClassifyOptions.of_preset(PRESET, **named),
        RunFolder(context.folder / "run"),
        gpu=context.is_gpu,
    )
    torch.manual_seed(0)
    return Classify(options, opened, World(device=context.device))


def fed_rates(context: Context, stage: Any) -> tuple[list[float], list[float]]:
    """Return the images/s and the percentage of waiting of each round."""
    rates, waits = [], []
    for _ in context.rounds():
        waited = stage.batches.wait_seconds
        seconds = context.seconds(stage.advance, context.workload.steps)
        rates.append(context.workload.steps * stage.options.batch_size / seconds)
        waits.append((stage.batches.wait_seconds - waited) / seconds * 100)
    return rates, waits


def fixed_batch_rates(context: Context, stage: Any) -> list[float]:
    """Return the images/s of each round of a stage that repeats one batch."""
    stream = stage.batches
    batch = stream._next()
    fixed = batch._replace(
        images=batch.images.to(context.device), labels=batch.labels.to(context.device)
    )
    repeated = copy.copy(stream)
    repeated._next = lambda: fixed  # `take` augments it anew
    stage.batches = repeated
    try:
        steps = context.workload.steps
        context.seconds(stage.advance)
        return [
            steps * stage.options.batch_size / context.seconds(stage.advance, steps)
            for _ in context.rounds()
        ]
    finally:
        stage.batches = stream


# --- WGAN -----------------------------------------------------------------------------------------


def wgan(context: Context) -> None:
    """Measure a step of the stage and one of the paper's loop, in one format and in float32."""
    from workflows.training.precision import training_precision

    fastest_settings(context)
    fastest = training_precision("auto", context.device)
    for dtype in dict.fromkeys((fastest, torch.float32)):
        name = str(dtype).removeprefix("torch.")
        stage = make_wgan_stage(context, name)
        plain_step = make_paper_step(context, dtype)

        def step(stage: Any = stage) -> None:
            complete = stage.step
            while stage.step == complete:
                stage.advance()

        context.seconds(plain_step, 3)
        plain = gan_rates(context, plain_step)
        context.seconds(step, 3)
        waited, started = stage.batches.wait_seconds, context.now()
        rates = gan_rates(context, step)
        share = (stage.batches.wait_seconds - waited) / (context.now() - started)
        context.report(
            f"step, {name}", rates, "images/s",
            f"{ratio_text(rates, plain, 'the plain loop')}, {share:.1%} waiting",
        )  # fmt: skip
        context.report(f"plain loop, {name}", plain, "images/s", "images on the device")
        stage.batches.close()


def make_wgan_stage(context: Context, precision: str) -> Any:
    """Return the stage of a WGAN, as `tesserae train wgan` creates it, without its warm-up."""
    from pipeline.loader import Loader
    from workflows.training.stage import Data
    from workflows.training.world import World
    from workflows.wgan.options import WganOptions
    from workflows.wgan.stage import Wgan

    workload = context.workload
    options = WganOptions(
        image_size=workload.gan_size, batch_size=workload.gan_batch_size, precision=precision,
        warmup_critic_steps=0,
    )  # fmt: skip
    squares = Loader(
        context.store, size=workload.gan_stored_size, batch_size=workload.gan_batch_size,
        **options.loader_arguments(),
    )  # fmt: skip
    torch.manual_seed(0)
    return Wgan(options, Data(squares, None, ()), World(device=context.device))


def make_paper_step(context: Context, dtype: torch.dtype) -> Callable[[], None]:
    """Return a step of the paper's loop on images that lie on the device."""
    import wgan as paper  # benchmarks/wgan.py

    size, batch_size = context.workload.gan_size, context.workload.gan_batch_size
    images = torch.rand(16 * batch_size, 3, size, size, device=context.device) * 2 - 1
    batches = itertools.cycle(images.split(batch_size))
    return paper.paper_step(batches, context.device, dtype, image_size=size, channels_last=True)


def gan_rates(context: Context, step: Callable[[], None]) -> list[float]:
    """Return the real images/s of each round."""
    from wgan import CRITIC_STEPS

    workload = context.workload
    images = workload.gan_steps * CRITIC_STEPS * workload.gan_batch_size
    return [images / context.seconds(step, workload.gan_steps) for _ in context.rounds()]


# --- features and DeViSE --------------------------------------------------------------------------


def features(context: Context) -> None:
    """Measure the tasks of `tesserae features`, shard by shard, and the network alone."""
    trunk = make_trunk(context)
    for precision in ("float32", "bfloat16"):
        extract_features(context, trunk, precision)


def make_trunk(context: Context) -> str:
    """Save a ResNet-50 with random weights, whose batch norm knows images; return its folder."""
    from transformers import ResNetConfig, ResNetModel

    from pipeline.augment import IMAGENET_MEAN, IMAGENET_STD
    from pipeline.backbone.network import Backbone
    from pipeline.backbone.save import save_backbone
    from pipeline.backbone.transform import Transform

    torch.manual_seed(0)
    widths = {} if context.workload.width is None else {
        "embedding_size": context.workload.width,
        "hidden_sizes": [4 * context.workload.width * factor for factor in (1, 2, 4, 8)],
    }  # fmt: skip
    model = ResNetModel(ResNetConfig(**widths))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean of all batches
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.randn(8, 3, 64, 64))
    size = context.workload.image_size
    transform = Transform(size=size, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    folder = context.folder / "trunk"
    save_backbone(Backbone(model, name="resnet50", transform=transform), folder)
    return str(folder)


def extract_features(context: Context, trunk: str, precision: str) -> None:
    """Extract the features of all shards in this process, and measure all but the first."""
    from pipeline.backbone.load import open_backbone
    from pipeline.features import extract
    from pipeline.features.probes import probe_distance
    from pipeline.features.shard_task import compute_shard
    from pipeline.features.worker import (
        FeatureNetwork,
        FeatureTaskConfig,
        compute_probe,
        open_workspace,
    )
    from pipeline.store import records
    from pipeline.store.features import FeatureOptions
    from pipeline.store.open import open_objects

    size = context.workload.image_size
    objects, on_cpu = open_objects(context.store), open_backbone(trunk)
    options = FeatureOptions(stored_size=size, precision=precision)
    recipe = extract.resolve_feature_recipe(objects, "train", on_cpu, options)
    plan = records.load_plan(objects, "train")
    run = extract.new_run(recipe, "train")
    objects = open_objects(context.store, run)
    objects.begin()
    extract.write_metadata(objects, recipe, plan, ("plain",))
    task = FeatureTaskConfig(
        store=context.store, split="train", run=run, name=recipe.name, trunk=trunk,
        kinds=("plain",), gpu=context.is_gpu,
    )  # fmt: skip
    first, *measured = extract.missing_shards(objects, recipe, plan, ("plain",))
    compute_shard(task, first)
    rates = []
    for shard in measured:
        started = context.now()
        rates.append(compute_shard(task, shard).num_rows / (context.now() - started))
    extract.finish(objects, recipe, plan)
    objects.end()
    if precision == "float32":
        (context.folder / "features.txt").write_text(recipe.name)
    workspace = open_workspace(task)
    network = workspace.network
    assert isinstance(network, FeatureNetwork)
    distance = probe_distance(compute_probe(on_cpu, precision), workspace.probe)
    comparison = "not comparable with the CPU's"
    if distance is not None:
        comparison = f"distance from the CPU's {distance:.2g}"
    alone = network_rates(context, network.backbone, precision)
    context.report(
        f"shards, {precision}", rates, "images/s",
        f"{ratio_text(rates, alone, 'the network alone')}, {comparison}",
    )  # fmt: skip
    context.report(
        f"the network alone, {precision}", alone, "images/s",
        f"batches of {network.backbone.batch_size} on the device",
    )  # fmt: skip


def network_rates(context: Context, backbone: Any, precision: str) -> list[float]:
    """Return the images/s of each round of a network on a batch that lies on the device."""
    from pipeline.features.worker import compute_features, reproducible_sums

    shape = (backbone.batch_size, 3, backbone.size, backbone.size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=context.device)
    images = images.contiguous(memory_format=torch.channels_last)
    steps = context.workload.steps

    def call() -> Any:
        return compute_features(backbone, images, precision)

    with reproducible_sums(context.device):
        context.seconds(call)
        return [len(images) * steps / context.seconds(call, steps) for _ in context.rounds()]


def devise(context: Context) -> None:
    """Measure a step of the head on stored features, and a plain loop of the same head."""
    fastest_settings(context)
    stage = make_devise_stage(context)
    workload, batch_size = context.workload, stage.options.batch_size
    plain_step = make_plain_head_step(context, stage)
    steps = {"plain loop": plain_step, "step": stage.advance}
    rates: dict[str, list[float]] = {name: [] for name in steps}
    waits = []
    for step in steps.values():
        context.seconds(step, 10)
    for _ in context.rounds():
        waited = stage.batches.wait_seconds
        for name, step in steps.items():
            seconds = context.seconds(step, workload.head_steps)
            rates[name].append(workload.head_steps * batch_size / seconds)
        waits.append((stage.batches.wait_seconds - waited) / seconds)
    ratio = ratio_text(rates["step"], rates["plain loop"], "the plain loop")
    context.report(
        "step of the head", rates["step"], "rows/s",
        f"batches of {batch_size}, {ratio}, {statistics.median(waits):.1%} waiting",
    )  # fmt: skip
    context.report("plain loop", rates["plain loop"], "rows/s", "features on the device")


def make_devise_stage(context: Context) -> Any:
    """Return the stage that trains a head on the stored features, with random class vectors."""
    from pipeline.features.loader import FeatureLoader
    from pipeline.wordvectors.vectors import ClassVectors
    from workflows.devise.class_splits import SEEN
    from workflows.devise.data import seen_features
    from workflows.devise.options import DeviseOptions
    from workflows.devise.stage import Devise
    from workflows.devise.word_space import FILE, make_word_space
    from workflows.training.stage import Data
    from workflows.training.world import World

    name = (context.folder / "features.txt").read_text()
    options = DeviseOptions(
        batch_size=context.workload.batch_size, hidden_units=HIDDEN_UNITS, mirrored=False
    )
    stored = FeatureLoader(context.store, name, batch_size=options.batch_size, rank=0, world=1)
    wnids = tuple(wnid for wnid, _ in stored.classes)
    vectors = np.random.default_rng(0).standard_normal((len(wnids), WORD_DIM), np.float32)
    classes = ClassVectors(
        wnids=wnids,
        names=wnids,
        vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        sources=("token",) * len(wnids),
        used_names=((),) * len(wnids),
    )
    parts = np.full(len(wnids), SEEN, np.int8)
    rows = seen_features(context.store, "train", name, np.arange(len(wnids)))
    folder = context.folder / "devise"
    folder.mkdir()
    (folder / FILE).write_bytes(make_word_space(classes, parts, rows, centre=True).encode())
    torch.manual_seed(0)
    data = Data(stored, None, wnids, folder=str(folder))
    return Devise(options, data, World(device=context.device))


def make_plain_head_step(context: Context, stage: Any) -> Callable[[], None]:
    """Return a step of a plain loop: the same layers, loss and optimiser as those of a stage."""
    options, device = stage.options, context.device
    loader = copy.copy(stage.batches.loader)
    batches = list(loader)
    features = torch.cat([batch.images for batch in batches]).to(device)
    labels = torch.cat([batch.labels for batch in batches]).to(device)
    mean, spread = features.mean(0), features.std(0).clamp_min(1e-6)
    features = (features - mean) / spread
    targets = torch.from_numpy(stage.space.vectors).to(device)
    head = nn.Sequential(
        nn.Dropout(options.dropout), nn.Linear(features.shape[1], options.hidden_units), nn.GELU(),
        nn.Dropout(options.dropout), nn.Linear(options.hidden_units, targets.shape[1]),
    ).to(device)  # fmt: skip
    optimiser = torch.optim.AdamW(
        head.parameters(), options.learning_rate, weight_decay=options.weight_decay
    )

    def step() -> None:
        rows = torch.randint(len(features), (options.batch_size,), device=device)
        optimiser.zero_grad()
        outputs = head(features[rows])
        cosines = nn.functional.cosine_similarity(outputs, targets[labels[rows]])
        (1 - cosines).mean().backward()
        optimiser.step()

    return step
