"""The arguments of a run's tasks, and the network that a worker opens and checks for them.

All workers must compute the same rows of the same images: the network has the recipe's weights and
settings, and its rows of the probe images equal those of the machine that started the run.
"""

from __future__ import annotations

import contextlib
import functools
import socket
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline import code_digest
from pipeline.backbone.determinism import probe_pixels
from pipeline.backbone.load import open_backbone
from pipeline.backbone.network import Backbone
from pipeline.errors import StoreError, StoreMismatchError
from pipeline.features.probes import encode_probe, probes_differ
from pipeline.loader.crops import Crop
from pipeline.loader.image_readers import CropDecoder
from pipeline.store import features
from pipeline.store.derived import DerivedRecipe, Family
from pipeline.store.features import FeatureRecipe
from pipeline.store.objects import Objects
from pipeline.store.open import open_objects
from pipeline.store.split import Split, open_split


class RowNetwork(Protocol):
    """A network on a worker that computes rows of images, each image by itself."""

    @property
    def device(self) -> torch.device:
        """The device that computes."""

    @property
    def batch_rows(self) -> int:
        """The maximum number of images that are computed at once, at least 1.

        Sums depend on it, so it depends on nothing but the recipe and the kind of device.
        """

    @property
    def software(self) -> dict[str, str]:
        """The versions of packages that open the network, for the provenance of commits."""

    def compute(self, images: torch.Tensor, kind: str) -> NDArray[Any]:
        """Compute the rows of images.

        Args:
            images: (n, 3, h, w) uint8 RGB, n at least 1, on any device.
            kind: The kind of rows, one of the recipe's `kinds`.

        Returns:
            (n, ...) of the recipe's `row_shape`, on the CPU, of a dtype that the recipe's can hold.
        """

    def probe(self) -> str:
        """Return the rows of two test images as base64 text, as `encode_probe` makes it."""


@dataclass(frozen=True, kw_only=True)
class RowTaskConfig(ABC):
    """The arguments that all tasks of a run share. It is small, since each task carries it."""

    family: ClassVar[Family]
    """The family of the rows."""

    store: str
    """The path or URL of the store."""
    split: str
    """The name of the split."""
    run: str
    """The name of the run, which marks its temporary files."""
    name: str
    """The name of the set of rows, whose recipe is in the store."""
    kinds: tuple[str, ...]
    """The kinds to compute, of the recipe's `kinds`."""
    gpu: bool = False
    """True to compute on a GPU of the worker."""
    probe: str = ""
    """The probe of the network on the machine that started the rows; empty: no comparison."""
    code: str = ""
    """The client's `running_code_digest`, which workers must match; empty: no comparison."""

    @abstractmethod
    def load_recipe(self, objects: Objects) -> DerivedRecipe:
        """Load the recipe of the rows from the store.

        Args:
            objects: The objects of the store.

        Raises:
            StoreError: The store has no such set, or its recipe is damaged.
        """

    @abstractmethod
    def open_network(self, recipe: DerivedRecipe, device: torch.device) -> RowNetwork:
        """Open the network, and compare it with the recipe.

        Args:
            recipe: The recipe, as `load_recipe` returns it.
            device: The device that computes.

        Raises:
            StoreMismatchError: It is another network than the recipe's.
            TesseraeError: There is no network, or it cannot be used.
        """


@dataclass(frozen=True, kw_only=True)
class FeatureTaskConfig(RowTaskConfig):
    """The arguments that all tasks of a run that computes features share."""

    family: ClassVar[Family] = features.FAMILY

    trunk: str
    """The folder or name of the network."""

    def load_recipe(self, objects: Objects) -> FeatureRecipe:
        """Load the recipe of the features from the store, as `RowTaskConfig` says."""
        return features.load_feature_recipe(objects, self.name)

    def open_network(self, recipe: DerivedRecipe, device: torch.device) -> RowNetwork:
        """Open the backbone, and compare it with the recipe, as `RowTaskConfig` says."""
        assert isinstance(recipe, FeatureRecipe)
        return FeatureNetwork(open_recipe_backbone(recipe, self.trunk, device), recipe.precision)


class FeatureNetwork:
    """A `RowNetwork` that computes features, of images and of their mirror images."""

    def __init__(self, backbone: Backbone, precision: str) -> None:
        """Wrap a backbone.

        Args:
            backbone: The network.
            precision: `float32` or `bfloat16`, the number format of the computation.
        """
        self.backbone = backbone
        """The network."""
        self._precision = precision
        self.device = backbone.device
        self.batch_rows = backbone.batch_size
        self.software = {"transformers": version("transformers")}

    def compute(self, images: torch.Tensor, kind: str) -> NDArray[np.float32]:
        """Compute the features of images, (n, d) float32; `mirrored` ones of mirror images."""
        oriented = images.flip(3) if kind == "mirrored" else images
        return compute_features(self.backbone, oriented, self._precision)

    def probe(self) -> str:
        """Return the features of two test images as base64 text."""
        return compute_probe(self.backbone, self._precision)


class RowWorkspace:
    """The open store and network that a worker keeps between the tasks of a run."""

    def __init__(self, config: RowTaskConfig) -> None:
        """Open the store and the network.

        Args:
            config: The arguments of the run.

        Raises:
            StoreMismatchError: They differ from those that the run was started with.
            StoreError: A GPU is required, and torch cannot use one.
        """
        code_digest.check_same_code(config.code)
        self.config = config
        self.objects: Objects = open_objects(config.store, config.run)
        self.recipe = config.load_recipe(self.objects)
        self.split, self.decoder = _open_images(self.objects, config.split, self.recipe)
        self.network = config.open_network(self.recipe, _device(gpu=config.gpu))
        self.probe = self.network.probe()
        if probes_differ(config.probe, self.probe, self.recipe.probe_tolerance):
            raise StoreMismatchError(_different_network_message(self.recipe, self.network.device))


def _open_images(
    objects: Objects, split: str, recipe: DerivedRecipe
) -> tuple[Split, CropDecoder | None]:
    """Return the split, and the decoder of its images; None for stored squares.

    Raises:
        StoreMismatchError: This version of the code cuts other crops than the recipe says.
    """
    if recipe.encoded is None:
        return open_split(objects, split, [recipe.stored_size]), None
    assert isinstance(recipe, FeatureRecipe)  # no other rows are computed of encoded ones
    opened = open_split(objects, split, [], encoded=[recipe.encoded])
    crop = Crop(share=recipe.crop_share)
    if crop.text != recipe.crop:
        raise StoreMismatchError(
            f"the features {recipe.name} are of crops {recipe.crop!r}, and this version cuts"
            f" {crop.text!r}. Use the version of Tesserae that began them, or remove them."
        )
    return opened, CropDecoder(opened, recipe.encoded, crop, seed=0)


open_workspace = functools.lru_cache(maxsize=1)(RowWorkspace)
"""Open the workspace of a `RowTaskConfig`, or return the one that the last task opened."""


def _device(*, gpu: bool) -> torch.device:
    if gpu and not torch.cuda.is_available():
        raise StoreError(
            f"on {socket.gethostname()} a worker has a GPU that torch {torch.__version__} cannot"
            " use: install a torch for it there, or pass --gpus 0."
        )
    return torch.device("cuda" if gpu else "cpu")


def open_recipe_backbone(recipe: FeatureRecipe, trunk: str, device: torch.device) -> Backbone:
    """Open the network that computes the features of *recipe*, and compare it with the recipe.

    Messages of transformers and of its downloads are silenced in this process.

    Args:
        recipe: The recipe of the features.
        trunk: The folder of the network, its name on the model hub, or `new`.
        device: The device of the network, such as `torch.device("cpu")`.

    Returns:
        The network in evaluation mode on *device*, with the cut and the pooling of the recipe, and
        its weights channels last in memory.

    Raises:
        StoreMismatchError: The network at *trunk* has other weights or another transform.
        TesseraeError: There is no network at *trunk*, or it cannot be used.
    """
    backbone = open_backbone(trunk, device, cut=recipe.cut or None, pooling=recipe.pooling)
    opened = (
        backbone.digest,
        backbone.size,
        backbone.mean,
        backbone.std,
        backbone.transform.channels,
    )
    expected = (recipe.weights, recipe.input_size, recipe.mean, recipe.std, recipe.channels)
    if opened != expected:
        raise StoreMismatchError(
            f"on {socket.gethostname()} {trunk} is not the network of the features {recipe.name}:"
            " it has other weights or another transform, or is read by another version of"
            f" transformers than {version('transformers')}."
        )
    backbone.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return backbone


def compute_probe(backbone: Backbone, precision: str) -> str:
    """Return the network's features of two probe images on this machine, as base64 text.

    It is the text that `pipeline.features.probes.encode_probe` makes of them.

    Args:
        backbone: The network, as `pipeline.backbone.load.open_backbone` returns it.
        precision: `float32` or `bfloat16`, the number format of the computation.
    """
    with reproducible_sums(backbone.device):
        return encode_probe(compute_features(backbone, probe_pixels(backbone.size), precision))


def _different_network_message(recipe: DerivedRecipe, device: torch.device) -> str:
    return (
        f"on {socket.gethostname()} torch {torch.__version__} on {device.type} computes different"
        f" {recipe.family.noun} for the same images than {recipe.name} was started with. Install"
        " the same torch there, or compute all of them on machines of one kind."
    )


def check_probe(recipe: DerivedRecipe, recorded: str, measured: str) -> None:
    """Check that this machine may continue rows that another torch or device has started.

    Args:
        recipe: The recipe of the rows, which decides the tolerance.
        recorded: The probe in a commit of the rows, as base64 text; the empty string if there is
            none, which passes.
        measured: The probe of the network on this machine, from `RowNetwork.probe`.

    Raises:
        StoreMismatchError: The probes differ by more than the tolerance. Probes that cannot be
            compared, because one is invalid or their lengths differ, pass.
    """
    if probes_differ(recorded, measured, recipe.probe_tolerance):
        raise StoreMismatchError(_different_network_message(recipe, torch.device("cpu")))


def compute_features(
    backbone: Backbone, images: torch.Tensor, precision: str
) -> NDArray[np.float32]:
    """Compute the features of images.

    Args:
        backbone: The network, as `pipeline.backbone.load.open_backbone` returns it.
        images: (n, 3, h, w) uint8 RGB, n at least 1, on any device; they are copied to that of the
            network, which stretches them to its size and normalises them.
        precision: `float32` or `bfloat16`, the number format of the computation.

    Returns:
        (n, d) float32, on the CPU, as the network computes them: they are not scaled.
    """
    device = backbone.device
    use_bfloat16 = precision == "bfloat16"
    with torch.autocast(device.type, torch.bfloat16) if use_bfloat16 else contextlib.nullcontext():
        computed: NDArray[np.float32] = backbone.extract(images.to(device)).cpu().numpy()
    return computed


@contextlib.contextmanager
def reproducible_sums(device: torch.device) -> Iterator[None]:
    """Make torch's sums reproducible inside the block: one thread, or fixed algorithms on a GPU.

    The settings are restored at the end of the block. On a CPU the number of torch's threads is 1
    in the calling thread, and in threads that first use torch inside the block; others keep theirs.
    In the whole process, cuDNN computes in full float32, and always with the same algorithm. The
    precision of matrix products stays as it is set. The block yields None.

    Args:
        device: The device that computes, a `torch.device`. On a GPU the number of torch's CPU
            threads stays as it is.
    """
    num_threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        # cuDNN computes convolutions in TF32, and may choose another algorithm each time.
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        ):
            yield
    finally:
        torch.set_num_threads(num_threads)
