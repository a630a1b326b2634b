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
            "generate pictures from noise: WGAN and related GANs",
            "workflows.wgan.options:WganOptions",
            "workflows.wgan.stage:Wgan",
        ),
        "colourise": StageName(
            "colour grey pictures, with or without a critic",
            "workflows.colourise.options:ColouriseOptions",
            "workflows.colourise.stage:Colourise",
        ),
        "devise": StageName(
            "map pictures into word space: DeViSE",
            "workflows.devise.options:DeviseOptions",
            "workflows.devise.stage:Devise",
            "workflows.devise.data:prepare_data",
        ),
    }
)


def stage_name(recorded: str) -> str:
    """Return the name of a stage as `options.json` records it: `workflows.<name>.stage:<class>`."""
    return recorded.removeprefix("workflows.").partition(".")[0]


def load_name(name: str) -> Any:
    """Return the object that `module:name` refers to."""
    return pkgutil.resolve_name(name)
