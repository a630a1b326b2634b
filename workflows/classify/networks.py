"""The networks of the stage `classify`: models of `transformers`, new or pretrained."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.augment import IMAGENET_MEAN, IMAGENET_STD
from pipeline.backbone.load import (
    load_config,
    load_pretrained,
    open_backbone,
    silence_transformers,
)
from pipeline.backbone.transform import Transform
from pipeline.errors import TesseraeError
from workflows.classify.options import NETWORKS, NEW_LAYER, PRETRAINED_LAYER, ClassifyOptions

DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3),
          152: (3, 8, 36, 3)}  # fmt: skip
"""The numbers of blocks in the four stages of each ResNet (He et al., CVPR 2016, table 1)."""
BASIC = (18, 34)
"""The ResNets with blocks of two layers; others have bottlenecks of three."""
CONVNEXT_DEPTHS = {"tiny": (3, 3, 9, 3), "small": (3, 3, 27, 3)}
"""The numbers of blocks in the four stages of each ConvNeXt (Liu et al., CVPR 2022)."""
PATCHES = 14
"""The number of patches on each side of an image in a vision transformer."""
MAX_PATCHES = 32
"""The largest such number; with more, attention takes gigabytes."""
_RESNET = re.compile(r"resnet(\d+)(-stem3)?")


class UnknownClassesError(TesseraeError):
    """A pretrained model has no last layer for the classes of a store."""

    def __init__(self, reason: str) -> None:
        """Create the error.

        Args:
            reason: Why the model has none, as a clause.
        """
        super().__init__(
            f"--last-layer is {PRETRAINED_LAYER}: {reason}. Pass --last-layer {NEW_LAYER}, or"
            " another --trunk."
        )


class Classifier:
    """An image classifier of `transformers` with the preprocessing of its images."""

    def __init__(self, model: Any, transform: Transform, *, pretrained: bool) -> None:
        """Wrap a model.

        Args:
            model: An image classifier of `transformers`.
            transform: The preprocessing of its images.
            pretrained: True if the weights of its trunk were trained before.
        """
        self.model = model
        self.transform = transform
        self.pretrained = pretrained

    @property
    def trunk(self) -> nn.Module:
        """The model without its last layers, as `trunk_of` returns it."""
        return trunk_of(self.model)

    def last_layers(self) -> list[nn.Parameter]:
        """Return the parameters that are not of the trunk."""
        return list(last_layers_of(self.model).values())

    def freeze(self, num_blocks: int) -> int:
        """Exclude the first blocks of the trunk from training.

        Args:
            num_blocks: The number of blocks, at least 0; -1 for the whole trunk.

        Returns:
            The number of blocks of the trunk.

        Raises:
            TesseraeError: The trunk has fewer blocks.
        """
        blocks = blocks_of(self.trunk)
        if num_blocks > len(blocks):
            raise TesseraeError(
                f"--frozen-blocks is {num_blocks}: {type(self.model).__name__} has {len(blocks)}"
                " blocks. Pass fewer, or -1 to train the last layer only."
            )
        for parameters in blocks if num_blocks < 0 else blocks[:num_blocks]:
            for parameter in parameters:
                parameter.requires_grad_(False)
        return len(blocks)

    def logits(self, pixels: Tensor) -> Tensor:
        """Return the scores of classes, with gradients if the weights have them.

        Args:
            pixels: (n, 3, h, w) float32 RGB, normalised by `transform`, on the device of the model.

        Returns:
            (n, C) float32, whatever autocast says.
        """
        if self.transform.channels == "BGR":
            pixels = pixels.flip(1)
        logits: Tensor = self.model(pixels).logits
        return logits.float()


def make_classifier(options: ClassifyOptions, classes: Sequence[str]) -> Classifier:
    """Return the network that *options* select, on the CPU.

    Torch's global generator draws the random weights.

    Args:
        options: The options of the stage, with what follows from the store.
        classes: The names of the classes by label.

    Raises:
        TesseraeError: The network cannot be created or opened.
        AssertionError: The network or the image size is not chosen yet.
    """
    if options.trunk is not None:
        is_new = options.last_layer != PRETRAINED_LAYER
        return pretrained_classifier(options.trunk, classes, new_last_layer=is_new)
    assert options.network is not None
    assert options.image_size is not None
    return new_classifier(
        options.network, classes, image_size=options.image_size, width=options.width
    )


def check_classifier(options: ClassifyOptions, classes: Sequence[str]) -> None:
    """Check that the network that *options* select can be created and takes their images.

    A network with random weights is created without memory for them.

    Args:
        options: The options of the stage, with what follows from the store.
        classes: The names of the classes by label.

    Raises:
        TesseraeError: The network cannot be created or opened, has fewer blocks than are to be
            frozen, or fails on images of one of the sizes.
    """
    with nullcontext() if options.trunk is not None else torch.device("meta"):
        classifier = make_classifier(options, classes)
    classifier.freeze(options.frozen_blocks)
    for name in ("image_size", "start_image_size", "evaluation_size"):
        size = getattr(options, name)
        if size is not None:
            _check_images(classifier, size, f"--{name.replace('_', '-')}")


def new_classifier(
    network: str, classes: Sequence[str], *, image_size: int, width: int | None = None
) -> Classifier:
    """Return a network with random weights, which torch's global generator draws.

    Args:
        network: One of `NETWORKS`, or the path of the `config.json` of an image classifier of
            `transformers`.
        classes: The names of the classes by label.
        image_size: Side of the images, in pixels.
        width: Number of channels of the first layers, by which all layers are scaled (default: that
            of the network); for a vision transformer, of all layers.

    Raises:
        TesseraeError: There is no such network, it cannot be scaled to that width, or the file is
            unreadable or belongs to no image classifier.
    """
    if network in NETWORKS:
        config = _config(network, image_size, width)
    else:
        config = _read_config(network, image_size, width)
    transform = Transform(size=image_size, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return Classifier(_model_of(config, classes, network), transform, pretrained=False)


def pretrained_classifier(
    trunk: str, classes: Sequence[str], *, new_last_layer: bool = True
) -> Classifier:
    """Return a pretrained network as a classifier of other classes.

    Args:
        trunk: The folder or hub name of a vision model of `transformers`.
        classes: The names of the classes by label.
        new_last_layer: True for a new last layer, which torch's global generator draws (the
            default); False for that of the model, with its weights for these classes.

    Raises:
        UnknownClassesError: The last layer of the model lacks one of the classes.
        TesseraeError: The model cannot be opened, or has no image classifier in `transformers`.
    """
    backbone = open_backbone(trunk)
    source: Any = backbone.model
    model = _model_of(source.config, classes, trunk)
    classifier = Classifier(model, backbone.transform, pretrained=True)
    if type(classifier.trunk) is not type(source):
        raise TesseraeError(
            f"--trunk is {trunk}, a {type(source).__name__}: expected a model of which"
            " `transformers` has an image classifier."
        )
    missing, _ = classifier.trunk.load_state_dict(source.state_dict(), strict=False)
    if missing:
        raise TesseraeError(f"--trunk is {trunk}: it has no weights for {missing[0]}.")
    if not new_last_layer:
        layers = last_layers_of(model)
        with torch.no_grad():
            for name, weights in pretrained_last_layer(trunk, classes).items():
                layers[name].copy_(weights)
    return classifier


def pretrained_last_layer(trunk: str, classes: Sequence[str]) -> dict[str, Tensor]:
    """Return the weights with which the last layer of a pretrained classifier tells classes apart.

    Args:
        trunk: The folder or hub name of an image classifier of `transformers`.
        classes: The names of the classes by label.

    Returns:
        The weights by their names in the model, with one row for each of *classes*.

    Raises:
        UnknownClassesError: The model does not have exactly one class of each name, or no trained
            last layer; or it is not a single linear layer.
        TesseraeError: The model cannot be opened, or its weights are damaged.
    """
    rows = _rows_of(load_config(trunk).id2label, classes, trunk)
    model, missing = load_pretrained(trunk, classifier=True)
    layers = last_layers_of(model)
    if not layers or missing & layers.keys():
        raise UnknownClassesError(f"{trunk} has no trained last layer")
    is_linear = sum(weights.ndim > 1 for weights in layers.values()) == 1
    if not is_linear or any(len(weights) != model.config.num_labels for weights in layers.values()):
        raise UnknownClassesError(f"{trunk} ends in more than one linear layer")
    return {name: weights.detach()[rows] for name, weights in layers.items()}


def _rows_of(id2label: object, classes: Sequence[str], trunk: str) -> list[int]:
    """Return the label in a model of each class, all of whose names it must have once.

    Names of which a set has two, such as the two cranes of ImageNet, say which is meant only if the
    model has the same names in the same order.
    """
    if not isinstance(id2label, dict) or set(id2label) != set(range(len(id2label))):
        raise UnknownClassesError(f"{trunk} does not number its classes from 0")
    names = [str(id2label[label]) for label in range(len(id2label))]
    if names == list(classes):
        return list(range(len(names)))
    counts = Counter(names)
    unknown = next((name for name in classes if counts[name] != 1), None)
    if unknown is not None:
        known = f"{counts[unknown]} classes of that name" if counts[unknown] else "no such class"
        raise UnknownClassesError(f"the store has a class {unknown!r}, and {trunk} has {known}")
    if len(set(classes)) < len(classes):
        twice, _ = Counter(classes).most_common(1)[0]
        raise UnknownClassesError(f"the store has several classes {twice!r}, and {trunk} one")
    label_of = {name: label for label, name in enumerate(names)}
    return [label_of[name] for name in classes]


def trunk_of(model: Any) -> nn.Module:
    """Return an image classifier of `transformers` without its last layers.

    Args:
        model: The classifier.

    Raises:
        TesseraeError: The model does not have them apart from its other layers.
    """
    trunk = getattr(model, model.base_model_prefix, None)
    if not isinstance(trunk, nn.Module):
        raise TesseraeError(
            f"{type(model).__name__} does not separate its last layers from the others: expected a"
            f" model with a part {model.base_model_prefix!r}. Choose another network."
        )
    return trunk


def last_layers_of(model: Any) -> dict[str, nn.Parameter]:
    """Return the parameters of an image classifier that are not of its trunk, by their names.

    Args:
        model: A model of `transformers` with a trunk (`trunk_of`).
    """
    of_trunk = {id(parameter) for parameter in trunk_of(model).parameters()}
    named = model.named_parameters()
    return {name: value for name, value in named if id(value) not in of_trunk}


def blocks_of(trunk: nn.Module) -> list[list[nn.Parameter]]:
    """Return the parameters of each block of a trunk, from the images on.

    The first block is the stem, what comes before the list of layers. Each layer of the list is
    another one or, where the list has stages, each of their `layers` or `blocks`. What follows the
    list belongs to the last block.

    Args:
        trunk: A model of `transformers` without its last layers.
    """
    parameters = list(trunk.parameters())
    index = {id(parameter): i for i, parameter in enumerate(parameters)}
    listed = next((m for m in trunk.modules() if isinstance(m, nn.ModuleList)), ())
    starts = [0]
    for layer in listed:
        # A stage may have layers of its own before its list: they belong to its first block.
        units = [layer, *list(_layers_of(layer))[1:]]
        starts += [index[id(first)] for unit in units if (first := next(unit.parameters(), None))
                   is not None]  # fmt: skip
    bounds = [*sorted(set(starts)), len(parameters)]
    return [parameters[start:stop] for start, stop in pairwise(bounds)]


def _layers_of(stage: nn.Module) -> Iterable[nn.Module]:
    """Return the list of layers of a stage; nothing if it is a single layer."""
    lists = (getattr(stage, name, None) for name in ("layers", "blocks"))
    return next((value for value in lists if isinstance(value, nn.ModuleList | nn.Sequential)), ())


# --- configurations -------------------------------------------------------------------------------


def _model_of(config: Any, classes: Sequence[str], name: str) -> Any:
    """Return a new classifier with a configuration, whose classes are named."""
    from transformers import AutoModelForImageClassification

    silence_transformers()
    config.id2label = dict(enumerate(classes))
    config.label2id = {words: label for label, words in enumerate(classes)}
    if config.architectures is None:  # it could not choose between two classes of a network
        config.architectures = []
    try:
        model: Any = AutoModelForImageClassification.from_config(config, trust_remote_code=False)
    except Exception as e:  # of many kinds for a foreign configuration
        raise TesseraeError(
            f"{name} is no image classifier of `transformers` ({_in_one_line(e)})."
        ) from e
    return model.float()


def _in_one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:200].rstrip(".")


def _read_config(file: str, image_size: int, width: int | None) -> Any:
    if width is not None:
        raise TesseraeError(f"--width is {width}: the network of {file} has its own. Omit it.")
    from transformers import AutoConfig

    try:
        values = json.loads(Path(file).read_text(encoding="utf-8"))
        config: Any = AutoConfig.for_model(**values)
    except Exception as e:  # of many kinds for a foreign file
        raise TesseraeError(
            f"--network is {file}: expected the config.json of an image classifier of"
            f" `transformers` ({_in_one_line(e)})."
        ) from e
    if isinstance(getattr(config, "image_size", None), int):
        config.image_size = image_size
    return config


def _config(network: str, image_size: int, width: int | None) -> Any:
    from transformers import ConvNextConfig, ResNetConfig, ViTConfig

    from pipeline.backbone.small_images import ResNet9Config, Stem3ResNetConfig

    if network == "resnet9":
        return ResNet9Config(width=width or 64)
    if network == "vit-small":
        return _vit_config(ViTConfig, image_size, width or 384)
    if network.startswith("convnext"):
        first = width or 96
        depths = CONVNEXT_DEPTHS[network.removeprefix("convnext-")]
        hidden_sizes = [first * factor for factor in (1, 2, 4, 8)]
        return ConvNextConfig(depths=list(depths), hidden_sizes=hidden_sizes)
    match = _RESNET.fullmatch(network)
    assert match is not None
    depth, first = int(match[1]), width or 64
    expansion = 1 if depth in BASIC else 4
    return (Stem3ResNetConfig if match[2] else ResNetConfig)(
        embedding_size=first,
        hidden_sizes=[first * expansion * factor for factor in (1, 2, 4, 8)],
        depths=list(DEPTHS[depth]),
        layer_type="basic" if depth in BASIC else "bottleneck",
    )


def _vit_config(kind: Any, image_size: int, width: int) -> Any:
    """Return the configuration of ViT-S (Touvron et al.: DeiT, ICML 2021), 16 px patches of 224."""
    if width % 64:
        raise TesseraeError(f"--width is {width}: expected a multiple of 64 for vit-small.")
    patch = max(1, image_size // PATCHES)
    while image_size % patch:
        patch -= 1
    if image_size // patch > MAX_PATCHES:
        raise TesseraeError(
            f"--image-size is {image_size}: vit-small would cut images into {image_size // patch}"
            f" patches on each side, as it has no divisor near {image_size // PATCHES}. Pass a"
            " multiple of 8."
        )
    return kind(
        hidden_size=width, num_hidden_layers=12, num_attention_heads=width // 64,
        intermediate_size=4 * width, image_size=image_size, patch_size=patch,
    )  # fmt: skip


@torch.no_grad()
def _check_images(classifier: Classifier, size: int, flag: str) -> None:
    """Refuse a network that fails on images of the size that a flag selects."""
    model = classifier.model.eval()
    device = next(model.parameters()).device
    try:
        logits = classifier.logits(torch.zeros(2, 3, size, size, device=device))
    except Exception as e:  # of many kinds for a foreign network
        expected = getattr(model.config, "image_size", None)
        cure = f"Pass {expected}" if isinstance(expected, int) else "Pass another size"
        raise TesseraeError(
            f"{flag} is {size}: {type(model).__name__} fails on such images"
            f" ({_in_one_line(e)}). {cure}, or another network."
        ) from e
    if logits.shape != (2, model.config.num_labels):
        raise TesseraeError(
            f"{type(model).__name__} gives scores of the shape {tuple(logits.shape)} for 2 images:"
            f" expected one for each of {model.config.num_labels} classes. Choose another network."
        )
