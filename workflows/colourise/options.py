"""The options of the colourisation stage."""

from dataclasses import dataclass

from workflows.adversarial.objectives import OBJECTIVES
from workflows.options.fields import option
from workflows.training.options import TrainingOptions, resized_side

_GROUP = "images, network and loss"


@dataclass(frozen=True, kw_only=True)
class ColouriseOptions(TrainingOptions):
    """The flags of `tesserae train colourise`."""

    image_size: int = option(
        64,
        "side of the images to train on, in pixels",
        choices=(8, 16, 32, 64, 128),
        group=_GROUP,
    )
    resize: bool = option(
        True,
        "resize stored images that are at least a quarter larger than --image-size, on the device;"
        " otherwise they are cropped at their stored scale",
        legacy_value=False,
        group=_GROUP,
    )
    width: int = option(32, "number of channels of the first layer", minimum=1, group=_GROUP)
    learning_rate: float = option(2e-4, "learning rate of Adam", above=0, group=_GROUP)
    adversarial_weight: float = option(
        0.01, "weight of the adversarial loss; 0 trains without a critic", minimum=0, group=_GROUP
    )
    objective: str = option(
        "lsgan", "adversarial objective", choices=tuple(OBJECTIVES), group=_GROUP
    )

    def resized_side(self, stored: int) -> int | None:
        """Return the side to which the device resizes images before the crop, in pixels.

        Args:
            stored: Side of the stored images, in pixels.

        Returns:
            None without `resize`, or if *stored* is below 1.25 times the image size: images are not
            resized. Otherwise 9/8 of the image size, as crops are random, and at most *stored*.
        """
        return resized_side(stored, self.image_size, crop="random") if self.resize else None

    def speedup_options(self) -> str:
        """Return the options that make a step faster, as a phrase for the terminal."""
        return (
            "a smaller --image-size (and a store of that size) or --width, --adversarial-weight 0"
        )

    def changeable_on_rewind(self) -> tuple[str, ...]:
        """Return the names of options that may change when a run restarts from an earlier step."""
        return ("learning_rate", "adversarial_weight")

    def options_to_lower(self) -> str:
        """Return what to lower after training has diverged, as a phrase for an error message."""
        return f"--learning-rate (now {self.learning_rate:g})"
