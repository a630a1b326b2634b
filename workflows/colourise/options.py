"""What colouring can be asked for."""

from dataclasses import dataclass

from workflows.training.options import Training, option

OBJECTIVES = ("wgan", "wgan-gp", "dcgan", "lsgan", "hinge")


@dataclass(frozen=True, kw_only=True)
class Options(Training):
    """The flags of `tesserae train colourise`."""

    image_size: int = option(64, "side of the pictures, in pixels", choices=(8, 16, 32, 64, 128))
    width: int = option(32, "channels of the first layer", least=1)
    rate: float = option(2e-4, "learning rate, of Adam", least=0)
    adversarial: float = option(0.01, "weight of a critic's judgement; 0 = without one", least=0)
    objective: str = option("lsgan", "what the critic minimises", choices=OBJECTIVES)

    def changeable(self) -> tuple[str, ...]:
        """Options that may be others where a run goes back to an earlier step."""
        return ("rate", "adversarial")

    def to_lower(self) -> str:
        """What a person lowers where a loss is not finite any more."""
        return f"--rate (now {self.rate:g})"
