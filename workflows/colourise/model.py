"""A trained network that colourises grey images, as saved in the newest checkpoint of its run."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import TesseraeError
from workflows.colourise.options import ColouriseOptions
from workflows.colourise.stage import ColourNetwork
from workflows.training.run_folder import RunFolder

STAGE = "colourise"
"""The name of the stage in `options.json`."""


@dataclass(frozen=True)
class TrainedColouriser:
    """The network of a run at its newest checkpoint."""

    network: ColourNetwork
    """The network on the CPU, in evaluation mode."""
    options: ColouriseOptions
    """The options of the run."""
    step: int
    """The number of complete steps at the checkpoint."""


def open_colouriser(folder: RunFolder) -> TrainedColouriser:
    """Open the network of a run at its newest checkpoint.

    It draws random weights from torch's global generator before it loads the trained ones.

    Args:
        folder: The run folder.

    Raises:
        TesseraeError: The folder holds no run of this stage, or one without a checkpoint; or the
            run has diverged.
        ValueError: The folder's `options.json` holds a value that an option does not accept.
    """
    record = folder.read_options()
    stage = record["options"].get("stage")
    if stage != STAGE:
        raise TesseraeError(
            f"{folder.path} is a run of the stage {stage}: expected a run of `tesserae train"
            " colourise`."
        )
    newest = folder.newest_checkpoint()
    if newest is None:
        raise TesseraeError(f"{folder.path} has no checkpoint yet: train it first.")
    options = ColouriseOptions.from_dict(record["options"])
    network = ColourNetwork(options.width)
    state = folder.load_trained(newest, "game")
    network.load_state_dict(state["game"]["generator"])
    return TrainedColouriser(network.eval(), options, int(state["step"]))
