"""The arms of the study, their numbers of steps, and a run of one of them."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import StoreError
from pipeline.loader import Loader
from workflows.evaluation.image_quality import luma, psnr, ssim, without_border
from workflows.studies.perceptual import ADVERSARIAL, BICUBIC, PERCEPTUAL, PIXEL
from workflows.studies.perceptual.images import KeyedBatches, StudyPairs
from workflows.studies.perceptual.judges import VisionNetwork, open_judges
from workflows.studies.perceptual.options import PerceptualOptions
from workflows.studies.perceptual.samples import write_crops
from workflows.studies.results import ResultsFolder
from workflows.superres import bicubic
from workflows.superres.data import check_critic
from workflows.superres.loss import ImageLoss
from workflows.superres.options import SuperresOptions
from workflows.superres.pairs import Pair
from workflows.superres.stage import Superres, pair_maker
from workflows.training.stage import Data
from workflows.training.world import World

DIVERGED = "diverged"
"""The metric that is 1 of a run whose images or losses are not finite, else 0."""
PSNR, SSIM = "psnr", "ssim"
"""The names of metrics of images; those of `distance_name` are the others."""
STEPS, STEP_SECONDS, MINUTES = "steps", "step seconds", "training minutes"
"""The names of metrics of training; those of the stage's losses are the others."""
TIMES_FILE = "step-times.jsonl"
"""The file of the measured time of a step of each loss, in the folder of the study."""
UNTIMED_STEPS, TIMED_STEPS, ROUNDS = 2, 2, 5
"""The number of first steps that are not timed, of those that are timed at once, and of rounds in
which all losses take turns, so that a busy minute of the machine falls on all of them."""
LAST_SHARE = 0.1
"""The share of the steps, the last ones, over which losses are averaged."""
ENLARGED_ROWS = 4
"""The number of images that are enlarged and judged at once."""
MIN_STEPS = 2
"""The smallest number of steps of a run."""


@dataclass(frozen=True)
class LossArm:
    """An arm of the study."""

    loss: str
    """The loss, or `bicubic` for the control."""
    network: VisionNetwork | None = None
    """The vision network in the loss; None = the loss has none."""

    @property
    def name(self) -> str:
        """The name of the arm, such as `perceptual, mobilenet`."""
        return self.loss if self.network is None else f"{self.loss}, {self.network.name}"


def arms_of(networks: Sequence[VisionNetwork]) -> dict[str, LossArm]:
    """Return the arms by name: interpolation, pixels, and both other losses with each network.

    Args:
        networks: The vision networks.
    """
    with_networks = [
        LossArm(loss, network) for network in networks for loss in (PERCEPTUAL, ADVERSARIAL)
    ]
    return {arm.name: arm for arm in (LossArm(BICUBIC), LossArm(PIXEL), *with_networks)}


def distance_name(network: VisionNetwork) -> str:
    """Return the name of the metric that is the distance by a network.

    Args:
        network: The network.
    """
    return f"distance, {network.name}"


def metric_of_folder(name: str) -> str:
    """Return the name of a metric of the images of the folder `--images`.

    Args:
        name: The name of the same metric of the held-out images.
    """
    return f"folder {name}"


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """The measured time of a step, as the folder of a study has it."""

    arm: str
    """The name of the arm."""
    seconds: float
    """The time of a step; with an adversarial loss, of one after its warm-up."""


class LossExperiment:
    """The images and networks of the study, and the runs of its arms."""

    def __init__(
        self,
        options: PerceptualOptions,
        pairs: StudyPairs,
        results: ResultsFolder,
        device: torch.device,
    ) -> None:
        """Open the vision networks.

        Args:
            options: The options.
            pairs: The images.
            results: The folder of the study, which gets times of steps and crops of images.
            device: The device that trains.

        Raises:
            TesseraeError: A vision network cannot be used, or both are the same.
            StoreError: The patches are larger than the images, or too small for the critic; or
                interpolation lacks nothing.
        """
        self.options, self.pairs, self.results = options, pairs, results
        self._world = World(device=device)
        blocks = (options.first_blocks, options.second_blocks)
        self.networks = open_judges(options.judges, blocks, device)
        self.arms = arms_of(self.networks)
        self.perceptual_weights = {
            network.name: options.perceptual_weight * self._gradient_ratio(network)
            for network in self.networks
        }
        """The weight of the perceptual loss of each network by its name."""
        for arm in self.trained_arms:  # before any run
            check_critic(self._stage_options(arm, seed=0, steps=MIN_STEPS), pairs.arrays)
        self.steps: dict[str, int] = {}
        """The number of steps of each trained arm, once `set_steps` was called."""
        self._of_control: dict[str, float] | None = None

    @property
    def trained_arms(self) -> list[LossArm]:
        """All arms but the control."""
        return [arm for arm in self.arms.values() if arm.loss != BICUBIC]

    def settings(self) -> dict[str, Any]:
        """Return the settings that decide the results, as JSON values; seeds can be added."""
        options, arrays = self.options, self.pairs.arrays
        return {
            "store": options.store,
            "images": self.pairs.description,
            "image identity": self.pairs.identity,
            "folder": None if options.images is None else str(options.images),
            "images of the folder": len(self.pairs.folder),
            "judges": [f"{each.name} {each.digest[:16]}" for each in self.networks],
            "first blocks": list(self.networks[0].blocks),
            "second blocks": list(self.networks[1].blocks),
            "scale": arrays.scale,
            "degradation": arrays.degradation,
            "network": options.network,
            "patch size": options.patch_size,
            "batch size": options.batch_size,
            "learning rate": options.learning_rate,
            "minutes": options.minutes if options.steps is None else None,
            "steps": options.steps,
            "pixel weight": options.pixel_weight,
            "perceptual weight": options.perceptual_weight,
            "adversarial weight": options.adversarial_weight,
            "threads": options.threads,
            "device": str(self._world.device),
            "quick": options.quick,
            "torch": version("torch"),
        }

    def _gradient_ratio(self, network: VisionNetwork) -> float:
        """Return the weight with which a perceptual loss is as strong as the loss of pixels.

        It is the ratio of the norms of their gradients at the bicubic enlargements of the first
        batch. The features of two networks have other sizes, so that without it equal weights of
        the other losses would mean something else for each.
        """
        options = self._stage_options(LossArm(PIXEL), seed=0, steps=MIN_STEPS)
        both = replace(options, perceptual=network.model, perceptual_blocks=network.blocks)
        batch = KeyedBatches(self.pairs, options.batch_size, 0, self._world).take_sizes()
        pair = pair_maker(options)(batch.images, batch.rows, batch.epoch)
        images = bicubic.enlarge(pair.low, self.pairs.arrays.scale).requires_grad_()
        losses = ImageLoss(both, self._world.device, torch.float32)(images, pair.high)
        pixel, perceptual = (
            float(torch.autograd.grad(losses[name], images, retain_graph=True)[0].norm())
            for name in ("pixel_loss", "perceptual_loss")
        )
        if not (pixel and perceptual and math.isfinite(pixel / perceptual)):
            raise StoreError(
                f"the first images of {self.pairs.store} equal their bicubic enlargements in pixels"
                f" or in the features of {network.name}: there is no detail to learn. Pass a store"
                " of photographs."
            )
        return pixel / perceptual

    # --- numbers of steps -----------------------------------------------------------------------

    def set_steps(self) -> None:
        """Set the number of steps of each arm.

        It is that of the options, or as many as fit into the time of a run. A step of each arm is
        timed once and recorded in the folder, so that a study that is continued has the same
        numbers. The adversarial loss begins after half of the steps.

        Raises:
            ValueError: The time is too short for a run.
            TesseraeError: The folder is damaged.
        """
        options = self.options
        if options.steps is not None:
            self.steps = {arm.name: options.steps for arm in self.trained_arms}
            return
        for arm, seconds in self._mean_step_seconds().items():
            steps = round(60 * options.minutes / seconds)
            if steps < MIN_STEPS:
                raise ValueError(
                    f"--minutes is {options.minutes:g}: a step of {arm} takes {seconds:.2f} s, so"
                    f" that fewer than {MIN_STEPS} steps fit into it. Pass more."
                )
            self.steps[arm] = steps

    def _mean_step_seconds(self) -> dict[str, float]:
        """Return the time of a step of each arm, averaged over the whole run."""
        times = {time.arm: time.seconds for time in self.results.records(StepTime, TIMES_FILE)}
        if not {arm.name for arm in self.trained_arms} <= times.keys():
            times = self._measure_step_seconds()
            for name, seconds in times.items():
                self.results.append(StepTime(arm=name, seconds=seconds), TIMES_FILE)
        mean = {}
        for arm in self.trained_arms:
            seconds = times[arm.name]
            if arm.loss == ADVERSARIAL:
                seconds = (seconds + times[replace(arm, loss=PERCEPTUAL).name]) / 2
            mean[arm.name] = seconds
        return mean

    def _measure_step_seconds(self) -> dict[str, float]:
        """Time a step of each arm, that of the adversarial loss after its warm-up."""
        print("timing a step of each loss", flush=True)
        stages = {
            arm.name: self._stage(self._stage_options(arm, seed=0, steps=10_000, warmup=0))
            for arm in self.trained_arms
        }
        times: dict[str, list[float]] = {name: [] for name in stages}
        for number in range(ROUNDS + 1):
            for name, stage in stages.items():
                count = TIMED_STEPS if number else UNTIMED_STEPS
                started = self._clock()
                for _ in range(count):
                    stage.advance()
                if number:
                    times[name].append((self._clock() - started) / count)
        return {name: statistics.median(values) for name, values in times.items()}

    def _clock(self) -> float:
        """Return the CPU time of this process in seconds; with a GPU the time on the clock."""
        if self._world.device.type != "cuda":
            return time.process_time()
        torch.cuda.synchronize(self._world.device)
        return time.perf_counter()

    # --- runs -----------------------------------------------------------------------------------

    def run(self, name: str, seed: int) -> Mapping[str, float]:
        """Train an arm, and return the metrics of the held-out images that it enlarges.

        It seeds torch's global generator: all arms of a seed start from the same weights, and their
        batches are the same ones.

        Args:
            name: The name of the arm, a key of `arms`.
            seed: The seed of weights, batches and patches.
        """
        arm, scale = self.arms[name], self.pairs.arrays.scale
        if arm.loss == BICUBIC:
            if self._of_control is None:  # it is the same for every seed
                self._of_control = self._evaluate(
                    arm, seed, lambda low: bicubic.enlarge(low, scale)
                )
            return self._of_control
        steps = self.steps[name]
        torch.manual_seed(seed)
        stage = self._stage(self._stage_options(arm, seed=seed, steps=steps))
        losses: deque[dict[str, Tensor]] = deque(maxlen=math.ceil(LAST_SHARE * steps))
        started = self._clock()
        for _ in range(steps):
            losses.append(stage.advance())
        seconds = self._clock() - started
        means = {
            key: float(torch.stack([values[key] for values in losses]).mean()) for key in losses[0]
        }
        training = {
            STEPS: float(steps), STEP_SECONDS: seconds / steps, MINUTES: seconds / 60, **means,
        }  # fmt: skip
        network = stage.network.eval()
        if not all(map(math.isfinite, means.values())) or not _is_finite(network):
            return {**training, DIVERGED: 1.0}
        return {**training, DIVERGED: 0.0, **self._evaluate(arm, seed, network)}

    def _stage_options(
        self, arm: LossArm, *, seed: int, steps: int, warmup: int | None = None
    ) -> SuperresOptions:
        options = self.options
        losses: dict[str, Any] = {}
        if arm.network is not None:
            losses = {
                "perceptual": arm.network.model,
                "perceptual_blocks": arm.network.blocks,
                "perceptual_weight": self.perceptual_weights[arm.network.name],
                "pixel_weight": options.pixel_weight,
            }
        if arm.loss == ADVERSARIAL:
            losses["adversarial_weight"] = options.adversarial_weight
        arrays = self.pairs.arrays
        return SuperresOptions(
            scale=arrays.scale,
            degradation=arrays.degradation,
            patch_size=options.patch_size,
            network=options.network,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            steps=steps,
            warmup_steps=warmup,
            seed=seed,
            **losses,
        )

    def _stage(self, options: SuperresOptions) -> Superres:
        arrays = self.pairs.arrays
        loader = Loader(
            self.pairs.store, self.options.split, sizes=arrays.sizes,
            batch_size=options.batch_size, rank=0, world=1,
        )  # fmt: skip
        stage = Superres(options, Data(loader, None, ()), self._world)
        stage.batches.close()
        # The rows in memory: without a split for it, a part of the loader's rows is held out.
        stage.batches = KeyedBatches(  # type: ignore[assignment]
            self.pairs, options.batch_size, options.seed, self._world
        )
        return stage

    # --- evaluation -----------------------------------------------------------------------------

    @torch.no_grad()
    def _evaluate(
        self, arm: LossArm, seed: int, enlarge: Callable[[Tensor], Tensor]
    ) -> dict[str, float]:
        """Return the metrics of all images; the first seed writes crops of the held-out ones."""
        parts: dict[str, list[Tensor]] = {}
        enlarged: list[Tensor] = []
        for pair in self._parts():
            images = bicubic.round_to_levels(enlarge(pair.low))
            for key, values in self._measure(images, pair.high).items():
                parts.setdefault(key, []).append(values.cpu())
            enlarged.append(images.byte().cpu())
        if seed == 0:
            write_crops(self.results, arm.name, torch.cat(enlarged), self.pairs.held_out)
        for low, high in self.pairs.folder:
            images = bicubic.round_to_levels(enlarge(low.to(self._world.device)))
            for key, values in self._measure(images, high.to(images.device)).items():
                parts.setdefault(metric_of_folder(key), []).append(values.cpu())
        return {key: float(torch.cat(values).mean()) for key, values in parts.items()}

    def _parts(self) -> Iterator[Pair]:
        low, high = (torch.split(images, ENLARGED_ROWS) for images in self.pairs.held_out)
        for pair in zip(low, high, strict=True):
            yield Pair(*(images.to(self._world.device) for images in pair))

    def _measure(self, images: Tensor, originals: Tensor) -> dict[str, Tensor]:
        """Return the value of each metric for each image, without a border of `scale` pixels."""
        inner, inner_originals = (
            without_border(each, self.pairs.arrays.scale) for each in (images, originals)
        )
        of_images, of_originals = luma(inner), luma(inner_originals)
        distances = {
            distance_name(each): each.judge.distance(inner, inner_originals)
            for each in self.networks
        }
        return {
            PSNR: psnr(of_images, of_originals), SSIM: ssim(of_images, of_originals), **distances,
        }  # fmt: skip


def _is_finite(network: torch.nn.Module) -> bool:
    return all(bool(weights.isfinite().all()) for weights in network.parameters())
