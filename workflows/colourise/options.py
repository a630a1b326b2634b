"""The options of colouring."""

from dataclasses import dataclass

from workflows.adversarial.objectives import OBJECTIVES
from workflows.training.options import TrainingOptions, option, shrunk_side


@dataclass(frozen=True, kw_only=True)
class ColouriseOptions(TrainingOptions):
    """The flags of `tesserae train colourise`."""

    image_size: int = option(64, "side of the pictures, in pixels", choices=(8, 16, 32, 64, 128))
    shrink: bool = option(
        True, "resize stored pictures that are a quarter larger or more, on the device; otherwise a"
        " square of --image-size is cut out of them as they are", before=False,
    )  # fmt: skip
    width: int = option(32, "channels of the first layer", least=1)
    rate: float = option(2e-4, "learning rate, of Adam", above=0)
    adversarial: float = option(
        0.01, "weight of the adversarial loss; 0 = train without a critic", least=0
    )
    objective: str = option("lsgan", "adversarial objective", choices=tuple(OBJECTIVES))

    def shrunk_side(self, stored: int) -> int | None:
        """Return the side to which the device resizes pictures; None = it does not resize them."""
        return shrunk_side(stored, self.image_size, crop="random") if self.shrink else None

    def quicker(self) -> str:
        """Return the options that make a step faster, as a phrase for the terminal."""
        return "a smaller --image-size (with a store of that size) or --width, --adversarial 0"

    def changeable(self) -> tuple[str, ...]:
        """Return the options that may change when a run goes back to an earlier step."""
        return ("rate", "adversarial")

    def to_lower(self) -> str:
        """Return the option to lower, with its value, after training has diverged."""
        return f"--rate (now {self.rate:g})"
