"""The networks of the study: their cuts, and the classes that they were trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.backbone.load import open_backbone
from pipeline.backbone.network import Backbone
from pipeline.backbone.truncate import block_names, block_output
from pipeline.errors import TesseraeError
from workflows.studies.cut import EARLY, MAP, POOLED

MIN_BLOCKS = 3
"""The smallest number of blocks of a network that is worth cutting."""
DOWN_SAMPLING = "before the last down-sampling"
"""The cut of the notebook's first version: the last block before the map becomes its smallest."""
AFTER_DOWN_SAMPLING = "after the last down-sampling"
"""The cut of the notebook's released version, after the first block with the smallest map."""
LAST_BLOCK = "before the last block"
"""The cut that the text of the notebook names."""


@dataclass(frozen=True)
class Cut:
    """A cut of a network: the output of one of its blocks."""

    block: str
    """The name of the block, as `named_modules` has it."""
    shape: tuple[int, ...]
    """The shape of its output for an image, such as (768, 7, 7)."""
    early_side: int | None
    """The side of the map that is pooled early, in positions; None for a cut without that form."""
    is_last: bool
    """True for the last block, after which nothing remains to be computed but the pooling."""

    @property
    def forms(self) -> tuple[str, ...]:
        """The forms of features at this cut. The pooled last block is the form `end`."""
        pooled = () if self.is_last else (POOLED,)
        return (*pooled, MAP, *(() if self.early_side is None else (EARLY,)))

    @property
    def side(self) -> int:
        """The side of the map in positions; 1 without spatial dimensions."""
        return self.shape[1] if len(self.shape) == 3 else 1


@dataclass(frozen=True)
class Network:
    """A network that is cut."""

    name: str
    """The last part of its path or name, which the tables show."""
    path: str
    """Its folder or hub name."""
    backbone: Backbone
    cuts: tuple[Cut, ...]
    """Its cuts, from the images on."""

    @property
    def before_last_down_sampling(self) -> Cut | None:
        """The last cut whose map is larger than the network's last map; None if there is none."""
        larger = [cut for cut in self.cuts if cut.side > self.cuts[-1].side]
        return larger[-1] if larger else None

    @property
    def after_last_down_sampling(self) -> Cut | None:
        """The cut after `before_last_down_sampling`; None if there is no down-sampling."""
        before = self.before_last_down_sampling
        return None if before is None else self.cuts[self.cuts.index(before) + 1]

    @property
    def before_last_block(self) -> Cut:
        """The cut before the last block."""
        return self.cuts[-2]

    @property
    def lesson_cuts(self) -> dict[str, Cut]:
        """The lesson's cuts by their descriptions, each cut once, from the images on.

        The first version of the notebook cuts a ResNet before the last down-sampling, and the
        released one a block later. Its text says that the cut is before the last bottleneck.
        """
        named = {
            DOWN_SAMPLING: self.before_last_down_sampling,
            LAST_BLOCK: self.before_last_block,
            AFTER_DOWN_SAMPLING: self.after_last_down_sampling,
        }
        names = {cut: name for name, cut in reversed(named.items())}
        return {names[cut]: cut for cut in self.cuts[:-1] if cut in names}

    def knows(self, classes: Sequence[tuple[str, str]]) -> NDArray[np.bool_]:
        """Return which classes of a store the network was trained on, by the names of its labels.

        Args:
            classes: The wnid and the words of each class of the store.

        Returns:
            (C,) bool: True where a label of the network is the wnid or the words of the class.
        """
        config = getattr(self.backbone.model, "config", None)
        names = set(map(str, (getattr(config, "id2label", None) or {}).values()))
        return np.array([wnid in names or words in names for wnid, words in classes], bool)


def open_network(path: str) -> Network:
    """Open a network and find its cuts.

    Args:
        path: The folder or hub name of a vision model of `transformers`.

    Raises:
        TesseraeError: It cannot be opened, or has fewer than three blocks.
    """
    backbone = open_backbone(path)
    names = block_names(backbone.model)
    if len(names) < MIN_BLOCKS:
        raise TesseraeError(
            f"--trunk is {path}, in which {len(names)} blocks are recognised: expected a network"
            f" with a list of {MIN_BLOCKS} or more."
        )
    blank = torch.zeros(1, 3, backbone.size, backbone.size)
    with torch.no_grad():
        shapes = [tuple(block_output(backbone.model, name, blank).shape[1:]) for name in names]
    last = len(names) - 1
    cuts = [
        Cut(name, shape, None if i == last else _early_side(shape, shapes[-1]), i == last)
        for i, (name, shape) in enumerate(zip(names, shapes, strict=True))
    ]
    return Network(Path(path).name, path, backbone, tuple(cuts))


def _early_side(shape: Sequence[int], last_shape: Sequence[int]) -> int | None:
    """Return the side after pooling with a window of the side of the last map.

    The notebook of the lesson pools in that way: a window of 7 x 7 positions, the side of ResNet's
    last map at 224 px, leaves 2 x 2 of 14 x 14 and 1 x 1 of 7 x 7.
    """
    if len(shape) != 3 or len(last_shape) != 3 or shape[1] != shape[2] or last_shape[1] == 1:
        return None
    return math.ceil(shape[1] / last_shape[1])
