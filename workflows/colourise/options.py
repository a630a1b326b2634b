"""What colouring can be asked for."""

from dataclasses import dataclass

from workflows.adversarial.objectives import OBJECTIVES
from workflows.training.options import Training, option, shrunk_side


@dataclass(frozen=True, kw_only=True)
class Options(Training):
    """The flags of `tesserae train colourise`."""

    image_size: int = option(64, "side of the pictures, in pixels", choices=(8, 16, 32, 64, 128))
    shrink: bool = option(
        True, "resize stored pictures that are a quarter larger or more, on the device; otherwise a"
        " square of --image-size is cut out of them as they are", before=False,
    )  # fmt: skip
    width: int = option(32, "channels of the first layer", least=1)
    rate: float = option(2e-4, "learning rate, of Adam", above=0)
    adversarial: float = option(0.01, "weight of a critic's judgement; 0 = without one", least=0)
    objective: str = option("lsgan", "what the critic minimises", choices=tuple(OBJECTIVES))

    def shrunk_side(self, stored: int) -> int | None:
        """Side to which stored pictures are resized on the device; None = they are not."""
        return shrunk_side(stored, self.image_size, crop="random") if self.shrink else None

    def quicker(self) -> str:
        """Options that make a step quicker."""
        return "a smaller --image-size (with a store of that size) or --width, --adversarial 0"

    def changeable(self) -> tuple[str, ...]:
        """Options that may be others where a run goes back to an earlier step."""
        return ("rate", "adversarial")

    def to_lower(self) -> str:
        """What a person lowers where a loss is not finite any more."""
        return f"--rate (now {self.rate:g})"
