"""The options of the stage `classify`, which are the flags of `tesserae train classify`."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from pipeline.backbone.choices import NEW
from workflows.classify.recipes import (
    default_epochs,
    default_image_size,
    default_network,
    recipes,
)
from workflows.options.fields import PrintingFlag, option
from workflows.training.options import TrainingOptions, resized_side

NETWORKS = (
    *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    *(f"resnet{depth}-stem3" for depth in (18, 34, 50, 101, 152)),
    "resnet9", "convnext-tiny", "convnext-small", "vit-small",
)  # fmt: skip
"""The names of networks with random weights."""
OPTIMISERS = ("sgd", "adamw")
"""The names of optimisers: SGD with Nesterov momentum, and AdamW."""
CROPS = ("resized", "random", "none")
"""The crops of training images, as `pipeline.augment.Augment` has them."""
PRETRAINED_LAYER = "pretrained"
"""The `last_layer` of a trunk that tells the same classes apart."""
NEW_LAYER = "new"
"""The `last_layer` with random weights."""
PARTNERS = 2
"""The number of successive rows of a batch that MixUp and CutMix mix with each other."""
_OF_NEW: Mapping[str, Any] = MappingProxyType(
    {"optimiser": "sgd", "learning_rate": 0.1, "weight_decay": 5e-4}
)
# The rates that suit new weights destroy pretrained ones, whose batch norm keeps its statistics.
_OF_TRUNK: Mapping[str, Any] = MappingProxyType(
    {
        "optimiser": "adamw", "learning_rate": 1e-3, "trunk_learning_rate": 1e-4,
        "weight_decay": 0.01,
    }
)  # fmt: skip
CHOSEN = ("network", "image_size", "epochs", "last_layer")
"""The options that follow from the store and the machine if they are not named."""
EVALUATION_SHARE = 0.875
"""The side of the centre crop that is evaluated, as a fraction of the image's: 224 of 256 px."""

_RECIPE = "recipe"
_NETWORK = "network"
_IMAGES = "images and augmentation"
_OPTIMISER = "optimiser"
_COMPUTATION = "computation"


@dataclass(frozen=True, kw_only=True)
class ClassifyOptions(TrainingOptions):
    """The flags of `tesserae train classify`."""

    PRINTING_FLAGS = (
        PrintingFlag(
            name="--show",
            help="print the recipe that --preset names before it, with its source and its options,"
            " and exit",
            text="workflows.classify.recipes:describe_preset",
            group=_RECIPE,
        ),
    )

    steps: int = option(
        0,
        "number of training steps",
        implied="those of --epochs",
        minimum=0,
        group="training",
    )
    batch_size: int = option(
        128, "number of images in a batch, over all ranks", minimum=1, group="training"
    )
    eval_every: int = option(
        0,
        "number of steps between two evaluations",
        implied="those of an epoch",
        minimum=0,
        group="progress and checkpoints",
    )

    preset: str | None = option(
        None,
        f"named recipe, of {', '.join(recipes())}; options that you name as well take precedence",
        implied="none: network, image size and epochs follow from the store and the machine",
        choices=tuple(recipes()),
        metavar="NAME",
        group=_RECIPE,
    )

    network: str | None = option(
        None,
        "network with random weights: resnet18, 34, 50, 101 or 152; the same with -stem3 for small"
        " images, and resnet9; convnext-tiny or -small; vit-small; or the config.json of any image"
        " classifier of `transformers`",
        implied="one that suits the images and the machine",
        metavar="NAME_OR_FILE",
        group=_NETWORK,
    )
    width: int | None = option(
        None,
        "number of channels of the first layers, by which all layers are scaled",
        implied="that of the network",
        minimum=8,
        group=_NETWORK,
    )
    trunk: str | None = option(
        None,
        "pretrained vision model of `transformers`, a folder or a hub name, whose weights are"
        " fine-tuned in place of a network with random ones",
        implied="none",
        metavar="MODEL",
        group=_NETWORK,
    )
    last_layer: str | None = option(
        None,
        "last layer of a trunk: pretrained starts with its weights for the classes of the store,"
        " which the trunk must know by their names; new is random",
        implied="pretrained if the trunk knows all classes, else new",
        choices=(PRETRAINED_LAYER, NEW_LAYER),
        legacy_value=NEW_LAYER,
        group=_NETWORK,
    )
    frozen_blocks: int = option(
        0,
        "number of blocks of the trunk, from the first on, that are not trained; -1 trains the last"
        " layer only",
        minimum=-1,
        group=_NETWORK,
    )

    image_size: int | None = option(
        None,
        "side of the images to train on, in pixels",
        implied="that of the trunk; otherwise one that suits the store and the machine",
        minimum=8,
        maximum=4096,
        metavar="PIXELS",
        group=_IMAGES,
    )
    start_image_size: int | None = option(
        None,
        "side of the images in the first epochs, which grows to --image-size; smaller squares are"
        " read where the store has them",
        implied="--image-size, from the start",
        minimum=8,
        metavar="PIXELS",
        group=_IMAGES,
    )
    growth_epochs: tuple[int, ...] = option(
        (0, 0),
        "epochs from which on and until which the images grow from --start-image-size",
        implied="the first 3 quarters of the run",
        minimum=0,
        metavar="EPOCH",
        group=_IMAGES,
    )
    evaluation_size: int | None = option(
        None,
        "side of the images that are evaluated, in pixels",
        implied="--image-size",
        minimum=8,
        maximum=4096,
        metavar="PIXELS",
        group=_IMAGES,
    )
    mirrored_evaluation: bool = option(
        False, "average the scores of each image and its mirror image", group=_IMAGES
    )
    crop: str = option(
        "resized",
        "part of an image to train on: resized is a region of random area and aspect ratio, random"
        " a square at a random position, none the centre",
        choices=CROPS,
        group=_IMAGES,
    )
    min_area: float = option(
        0.08,
        "smallest fraction of an image that --crop resized keeps",
        above=0,
        maximum=1,
        metavar="FRACTION",
        group=_IMAGES,
    )
    padding: int = option(
        0,
        "width of the reflected border around images for --crop random, in pixels",
        minimum=0,
        metavar="PIXELS",
        group=_IMAGES,
    )
    flip: bool = option(True, "mirror half of the training images, at random", group=_IMAGES)
    cutout: int = option(
        0,
        "side of the square that is set to the mean colour in each training image, in pixels; 0"
        " leaves it out",
        minimum=0,
        metavar="PIXELS",
        group=_IMAGES,
    )
    mixup: float = option(
        0.0,
        "parameter of MixUp's beta distribution, such as 0.2; 0 leaves it out",
        minimum=0,
        maximum=100,
        group=_IMAGES,
    )
    cutmix: float = option(
        0.0,
        "parameter of CutMix's beta distribution, such as 1; 0 leaves it out",
        minimum=0,
        maximum=100,
        group=_IMAGES,
    )
    label_smoothing: float = option(
        0.0,
        "probability that is spread over all classes in the loss",
        minimum=0,
        maximum=0.9,
        group=_IMAGES,
    )

    epochs: int | None = option(
        None,
        "number of passes over the training images",
        implied="16 to 60, more for fewer images",
        minimum=1,
        group=_OPTIMISER,
    )
    optimiser: str | None = option(
        None,
        "optimiser: sgd has Nesterov momentum; norms and biases do not decay with either",
        implied="sgd; with --trunk adamw",
        choices=OPTIMISERS,
        group=_OPTIMISER,
    )
    learning_rate: float | None = option(
        None,
        "learning rate after the warm-up",
        implied="0.1; with --trunk 0.001",
        above=0,
        group=_OPTIMISER,
    )
    trunk_learning_rate: float | None = option(
        None,
        "learning rate of all but the last layer",
        implied="--learning-rate; with --trunk 0.0001",
        above=0,
        group=_OPTIMISER,
    )
    momentum: float = option(
        0.9, "momentum of --optimiser sgd", minimum=0, maximum=0.9999, group=_OPTIMISER
    )
    weight_decay: float | None = option(
        None,
        "weight decay",
        implied="0.0005; with --trunk 0.01",
        minimum=0,
        group=_OPTIMISER,
    )
    schedule: str = option(
        "cosine",
        "learning-rate schedule after the warm-up: cosine and linear fall to 0, step is divided by"
        " 10 at each of --milestones",
        choices=("cosine", "linear", "step", "constant"),
        group=_OPTIMISER,
    )
    milestones: tuple[int, ...] = option(
        (),
        "epochs at which --schedule step lowers the learning rate",
        implied="after 1/3, 2/3 and 8/9 of the run",
        minimum=1,
        metavar="EPOCH",
        group=_OPTIMISER,
    )
    warmup_epochs: float = option(
        1.0,
        "number of epochs in which the learning rate rises linearly",
        minimum=0,
        group=_OPTIMISER,
    )
    max_gradient_norm: float | None = option(
        None,
        "norm to which larger gradients are scaled down",
        implied="no limit",
        above=0,
        group=_OPTIMISER,
    )
    ema_decay: float = option(
        0.0,
        "decay of the exponential moving average of the weights, which is evaluated and exported; 0"
        " uses the weights themselves",
        minimum=0,
        maximum=0.999999,
        group=_OPTIMISER,
    )

    precision: str = option(
        "auto",
        "number format of the computation; auto is bfloat16 if the hardware supports it, else"
        " float32",
        choices=("auto", "float32", "bfloat16"),
        group=_COMPUTATION,
    )
    channels_last: bool = option(True, "channels-last memory layout", group=_COMPUTATION)
    compile: bool = option(False, "compile the network with torch.compile", group=_COMPUTATION)

    def __post_init__(self) -> None:
        """Refuse combinations of options that cannot work.

        Raises:
            ValueError: A value is not allowed, or not together with another one.
        """
        super().__post_init__()
        self._check_network()
        self._check_sizes()
        if (self.mixup or self.cutmix) and self.batch_size % PARTNERS:
            raise ValueError(
                f"--batch-size is {self.batch_size}: --mixup and --cutmix mix pairs of images."
                " Pass an even number."
            )
        if self.padding and self.crop != "random":
            raise ValueError(
                f"--padding is {self.padding} with --crop {self.crop}: only --crop random cuts"
                " images with a border. Omit it, or pass --crop random."
            )
        if self.milestones and self.schedule != "step":
            raise ValueError(
                f"--milestones are {self._listed(self.milestones)} with --schedule"
                f" {self.schedule}: only the schedule step has them."
            )

    @staticmethod
    def _listed(values: tuple[int, ...]) -> str:
        return " ".join(map(str, values))

    def _check_network(self) -> None:
        network = self.network
        if network is not None and network not in NETWORKS and not network.endswith(".json"):
            raise ValueError(
                f"--network is {network!r}: expected one of {', '.join(NETWORKS)}, or the path of a"
                " config.json."
            )
        if self.trunk is None:
            if self.frozen_blocks:
                raise ValueError(
                    f"--frozen-blocks is {self.frozen_blocks}: a network with random weights is"
                    " trained as a whole. Pass --trunk, or omit it."
                )
            return
        if self.trunk == NEW:
            raise ValueError(
                f"--trunk is {NEW!r}, a network with random weights, whose batch norm would keep"
                " the statistics of no images. Pass a pretrained model, or --network."
            )
        for name in ("network", "width"):
            if getattr(self, name) is not None:
                raise ValueError(
                    f"--{name} is {getattr(self, name)} and --trunk is {self.trunk}: a pretrained"
                    " model has its own network. Pass only one of them."
                )

    def _check_sizes(self) -> None:
        if len(self.growth_epochs) != 2 or self.growth_epochs[0] > self.growth_epochs[1]:
            raise ValueError(
                f"--growth-epochs are {self._listed(self.growth_epochs)}: expected the first and"
                " the last epoch."
            )
        start, size = self.start_image_size, self.image_size
        if start is not None and size is not None and start > size:
            raise ValueError(
                f"--start-image-size is {start}: expected at most --image-size, {size}."
            )
        smallest = size if start is None else start
        if smallest is not None and self.cutout > smallest:
            raise ValueError(f"--cutout is {self.cutout}: expected at most {smallest} pixels.")
        if smallest is not None and self.padding >= smallest:
            raise ValueError(f"--padding is {self.padding}: expected less than {smallest} pixels.")

    # --- recipes and what follows from the store ------------------------------------------------

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> Self:
        """Return the options of a command line, over those of its preset.

        Args:
            args: The parsed command line, which holds only what was named.

        Raises:
            ValueError: A value has the wrong type, or is outside its choices or its range, or does
                not go with another one.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        named = {name: value for name, value in vars(args).items() if name in names}
        return cls.of_preset(named.pop("preset", None), **named)

    @classmethod
    def of_preset(cls, preset: str | None, **named: Any) -> Self:
        """Return the options of a named recipe, with some changed.

        Values of the recipe that belong to a changed option follow it: epochs are scaled to another
        number of epochs, and what the options do not allow together is left out.

        Args:
            preset: The name of the recipe, one of `workflows.classify.recipes.recipes()`; None for
                the defaults.
            **named: Options by name, which take precedence.

        Raises:
            ValueError: There is no such recipe, or an option has an invalid value.
            TypeError: There is no such option.
        """
        if preset is None:
            return cls(**named)
        if preset not in recipes():
            raise ValueError(f"--preset is {preset!r}: expected one of {', '.join(recipes())}.")
        values = _following(recipes()[preset].options, named)
        return cls(**{**values, **named, "preset": preset})

    def with_recorded_choices(self, recorded: Mapping[str, Any]) -> Self:
        """Return a copy in which options that the run has chosen have the values of the run.

        Args:
            recorded: The options of the run by name.
        """
        chosen: dict[str, Any] = {
            name: recorded.get(name) for name in CHOSEN if getattr(self, name) is None
        }
        if self.trunk is not None:  # it is compared with that of the run
            chosen.pop("network", None)
        return dataclasses.replace(super().with_recorded_choices(recorded), **chosen)

    def for_store(self, sizes: tuple[int, ...], short_sides: tuple[int, ...], *, gpu: bool) -> Self:
        """Return a copy with an image size and a network that suit the store and the machine.

        Args:
            sizes: Sides of the stored squares of the training split, in pixels.
            short_sides: Short sides of the pictures in its encoded rows, in pixels.
            gpu: True if ranks have GPUs.

        Raises:
            TesseraeError: The trunk cannot be opened.
        """
        size, network = self.image_size, self.network
        if self.trunk is not None:
            from pipeline.backbone.load import open_backbone  # late: --help must not load torch

            size = size or open_backbone(self.trunk).size
        else:
            size = size or default_image_size(sizes, short_sides, gpu=gpu)
            network = network or default_network(size, gpu=gpu)
        return dataclasses.replace(self, image_size=size, network=network)

    def for_rows(self, rows: int) -> Self:
        """Return a copy with the numbers that follow from the number of training images.

        Args:
            rows: Number of labelled, readable training images.

        Raises:
            ValueError: There are fewer images than in a batch.
        """
        epochs = self.epochs or default_epochs(rows)
        epoch_steps = max(1, rows // self.batch_size)
        return dataclasses.replace(
            self,
            epochs=epochs,
            steps=self.steps or epochs * epoch_steps,
            eval_every=self.eval_every or epoch_steps,
        )

    def for_classes(self, classes: tuple[str, ...]) -> Self:
        """Return a copy with the last layer of the trunk if it knows all classes, or a new one.

        Args:
            classes: The names of the classes by label.
        """
        if self.trunk is None or self.last_layer is not None:
            return self
        # late: --help must not load torch
        from workflows.classify.networks import UnknownClassesError, pretrained_last_layer

        try:
            pretrained_last_layer(self.trunk, classes)
        except UnknownClassesError:
            return dataclasses.replace(self, last_layer=NEW_LAYER)
        return dataclasses.replace(self, last_layer=PRETRAINED_LAYER)

    @property
    def evaluated_at_start(self) -> bool:
        """True with the last layer of the trunk, which tells the classes apart before training."""
        return self.last_layer == PRETRAINED_LAYER

    def check_network(self, classes: tuple[str, ...] | None) -> None:
        """Refuse a network that cannot be created or opened, or takes images of another size.

        Args:
            classes: The names of the classes by label; None while they are not known.

        Raises:
            TesseraeError: The network cannot be created or opened, fails on images of the size, or
                has fewer blocks than are to be frozen.
            ValueError: The last layer is to be that of a trunk, and there is none.
        """
        if self.trunk is None and self.last_layer == PRETRAINED_LAYER:
            # Not with the other values: a run that is called again without --trunk is refused so.
            raise ValueError(
                f"--last-layer is {self.last_layer}: a network with random weights has none. Pass"
                " --trunk, or omit it."
            )
        from workflows.classify.networks import check_classifier  # late: --help must not load torch

        if classes is None:
            check_classifier(dataclasses.replace(self, last_layer=None), ("one", "two"))
        else:
            check_classifier(self, classes)

    def with_absolute_paths(self) -> Self:
        """Return a copy with absolute paths, because ranks run in other working directories."""
        paths: dict[str, Any] = {}
        if self.trunk is not None and Path(self.trunk).is_dir():
            paths["trunk"] = str(Path(self.trunk).absolute())
        if self.network is not None and self.network.endswith(".json"):
            paths["network"] = str(Path(self.network).absolute())
        return dataclasses.replace(super().with_absolute_paths(), **paths)

    # --- reading --------------------------------------------------------------------------------

    @property
    def labelled_rows_only(self) -> bool:
        """True: rows without a label are left out."""
        return True

    @property
    def rows_together(self) -> int:
        """The number of successive rows of a batch that must be in the same rank."""
        return PARTNERS if self.mixup or self.cutmix else 1

    @property
    def evaluated_size(self) -> int | None:
        """The side, in pixels, of the images that are evaluated; None until it is chosen."""
        return self.evaluation_size or self.image_size

    def resized_side(self, stored: int) -> int | None:
        """Return the side to which the device resizes images before the crop, in pixels.

        Args:
            stored: Side of the stored images, in pixels.

        Returns:
            None for the crop `resized`, or if *stored* is below 1.25 times the image size: images
            are not resized. Otherwise the image size, or for the crop `random` 9/8 of it, rounded
            and at most *stored*.
        """
        if self.crop == "resized" or self.image_size is None:
            return None
        return resized_side(stored, self.image_size, crop=self.crop)

    def loader_arguments(self, *, training: bool = True) -> dict[str, Any]:
        """Return keyword arguments of `pipeline.loader.Loader` that follow from the options.

        Args:
            training: True for the training split (the default). Other splits are read in the order
                of their rows, whole, and the centre of encoded rows is cut out.

        Returns:
            Those of all stages, and `drop_last` and, for encoded rows, `crop`.
        """
        from pipeline.loader.crops import Crop

        arguments = super().loader_arguments(training=training)
        arguments["drop_last"] = training
        if self.encoded is not None:
            random = training and self.crop == "resized"
            arguments["crop"] = (
                Crop("resized", area=(self.min_area, 1.0))
                if random
                else Crop("centre", share=1.0 if training else EVALUATION_SHARE)
            )
        return arguments

    def image_size_in(self, epoch: int) -> int:
        """Return the side of the images in an epoch, in pixels.

        Between the two epochs of `growth_epochs` it grows linearly from `start_image_size` to
        `image_size`, in multiples of 32 pixels, or of 8 below 128 pixels, as in Leclerc et al.:
        FFCV, CVPR 2023.

        Args:
            epoch: The number of the epoch, from 0.

        Raises:
            AssertionError: The image size is not chosen yet.
        """
        size, start = self.image_size, self.start_image_size
        assert size is not None
        first, last = self.growth_epochs
        if not last:
            last = 3 * (self.epochs or 1) // 4
        if start is None or epoch >= last:
            return size
        if epoch <= first:
            return start
        unit = 32 if size >= 128 else 8
        grown = start + (size - start) * (epoch - first) / (last - first)
        return max(start, min(size, round(grown / unit) * unit))

    def check_labels(self, classes: int, unlabelled: int) -> None:
        """Refuse a split from whose labels nothing can be learned.

        Args:
            classes: Number of classes of the split's store.
            unlabelled: Number of rows of the split without a label, which are left out.

        Raises:
            ValueError: The store has fewer than two classes.
        """
        if classes < 2:
            raise ValueError(
                f"the store has {classes} class{'es' * (classes != 1)}: expected at least 2 to"
                " tell apart. Prepare a source with a folder for each class."
            )

    # --- texts ----------------------------------------------------------------------------------

    def speedup_options(self) -> str:
        """Return the options that make a step faster, as a phrase for the terminal."""
        return "a smaller --image-size (and a store of that size), --width or --batch-size"

    def changeable_on_rewind(self) -> tuple[str, ...]:
        """Return the names of options that may change when a run restarts from an earlier step."""
        return (
            "learning_rate", "trunk_learning_rate", "momentum", "weight_decay", "schedule",
            "milestones", "warmup_epochs", "max_gradient_norm", "label_smoothing", "mixup",
            "cutmix", "cutout", "epochs", "precision", "mirrored_evaluation",
        )  # fmt: skip

    def options_to_lower(self) -> str:
        """Return what to lower after training has diverged, as a phrase for an error message."""
        return f"--learning-rate (now {self.resolved().learning_rate:g})"

    def resolved(self) -> Self:
        """Return a copy with the optimiser, its rates and its decay where they are not named.

        They suit a pretrained trunk if none of the four is named, else a new network.
        """
        names = {field: getattr(self, field) for field in _OF_TRUNK}
        is_tuned = self.trunk is not None and not any(v is not None for v in names.values())
        values = {**(_OF_TRUNK if is_tuned else _OF_NEW)}
        values |= {name: value for name, value in names.items() if value is not None}
        values.setdefault("trunk_learning_rate", values["learning_rate"])
        return dataclasses.replace(self, **values)


def _following(recipe: Mapping[str, Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a recipe, without or with others for what *named* makes invalid."""
    values = dict(recipe)
    epochs = named.get("epochs")
    if epochs is not None:
        for name in ("milestones", "growth_epochs"):
            if name in values:
                scaled = (round(epoch * epochs / recipe["epochs"]) for epoch in recipe[name])
                values[name] = tuple(max(1, epoch) for epoch in scaled)
    for name, is_left_out in (
        ("network", named.get("trunk") is not None),
        ("milestones", named.get("schedule", "step") != "step"),
        ("padding", named.get("crop", "random") != "random"),
    ):
        if is_left_out:
            values.pop(name, None)
    return values
