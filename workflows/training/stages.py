"""The training stages by name, as import locations, so that listing them imports nothing."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class StageName:
    """The import locations of a training stage."""

    what: str
    """A short description for the help text."""
    options: str
    """The options class, as `module:class`."""
    stage: str
    """The stage class, as `module:class`."""
    gather: str | None = None
    """The function that opens training data, as `module:function`; None = images of one size."""


STAGES = MappingProxyType(
    {
        "wgan": StageName(
            "train a GAN: WGAN, WGAN-GP, DCGAN, LSGAN or hinge",
            "workflows.wgan.options:WganOptions",
            "workflows.wgan.stage:Wgan",
        ),
        "colourise": StageName(
            "train a network that colourises grey images, optionally with an adversarial loss",
            "workflows.colourise.options:ColouriseOptions",
            "workflows.colourise.stage:Colourise",
        ),
        "devise": StageName(
            "train DeViSE, a network that maps images to word vectors",
            "workflows.devise.options:DeviseOptions",
            "workflows.devise.stage:Devise",
            "workflows.devise.data:prepare_data",
        ),
    }
)


def load_name(name: str) -> Any:
    """Return the object that `module:name` refers to."""
    return pkgutil.resolve_name(name)
