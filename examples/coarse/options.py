"""The options of the stage `coarse`: each field is a flag of `tesserae train coarse`."""

from dataclasses import dataclass

from workflows.options.fields import option
from workflows.training.options import TrainingOptions


@dataclass(frozen=True, kw_only=True)
class CoarseOptions(TrainingOptions):
    """The flags of `tesserae train coarse`."""

    image_size: int = option(64, "side of the images, in pixels, a multiple of 8", minimum=8)
    learning_rate: float = option(0.1, "learning rate of gradient descent", above=0)
