"""The options of the stage `classify`: each field becomes a flag of `tesserae train classify`."""

from dataclasses import dataclass

from workflows.training.options import TrainingOptions, option


@dataclass(frozen=True, kw_only=True)
class ClassifyOptions(TrainingOptions):
    """The flags of `tesserae train classify`."""

    image_size: int = option(64, "side of the pictures, in pixels, a multiple of 8", least=8)
    rate: float = option(0.1, "learning rate, of gradient descent", above=0)
