"""The stages that can be trained, by name: where each is, in words, so that nothing is loaded."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class StageName:
    """Where a stage is."""

    what: str
    options: str
    """`module:class`."""
    stage: str
    gather: str | None = None
    """What opens what it learns from, if that is more than pictures of a size."""


STAGES = MappingProxyType(
    {
        "wgan": StageName(
            "pictures from noise: WGAN and its family",
            "workflows.wgan.options:Options",
            "workflows.wgan.stage:Wgan",
        ),
        "colourise": StageName(
            "colour for grey pictures, with or without a critic",
            "workflows.colourise.options:Options",
            "workflows.colourise.stage:Colourise",
        ),
        "devise": StageName(
            "pictures into word space: DeViSE",
            "workflows.devise.options:Options",
            "workflows.devise.stage:Devise",
            "workflows.devise.data:gather",
        ),
    }
)


def load_name(name: str) -> Any:
    """Return what a `module:class` names."""
    return pkgutil.resolve_name(name)
