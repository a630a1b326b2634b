"""Residual networks for small images, as models of `transformers`.

Those of `transformers` begin with a convolution of stride 2 and a pooling, which leave 8x8
positions of an image of 32x32 pixels. These keep its resolution in the first layers. Importing this
module registers them, so that `AutoModel` and `AutoModelForImageClassification` open their folders;
a program without Tesserae cannot.

    resnet9    nine layers (Page: How to Train Your ResNet, 2018), for 32 px
    stem3      ResNets whose first layer is one 3x3 convolution (He et al.: Deep Residual Learning
               for Image Recognition, CVPR 2016, section 4.2)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    PretrainedConfig,
    PreTrainedModel,
    ResNetConfig,
)
from transformers.modeling_outputs import (
    BaseModelOutputWithPoolingAndNoAttention,
    ImageClassifierOutputWithNoAttention,
)
from transformers.models.resnet.modeling_resnet import ResNetEncoder

LOGIT_SCALE = 0.125
"""The factor on the outputs of a resnet9, whose last layer has no bias."""


class ResNet9Config(PretrainedConfig):
    """The configuration of a resnet9."""

    model_type = "tesserae-resnet9"
    width: int = 64
    """The number of channels of the first layer; the last one has 8 times as many."""
    num_channels: int = 3
    """The number of channels of the images."""

    @property
    def num_features(self) -> int:
        """The number of features of an image."""
        return 8 * self.width


class Stem3ResNetConfig(ResNetConfig):
    """The configuration of a ResNet with a 3x3 convolution as its first layer."""

    model_type = "tesserae-stem3-resnet"

    @property
    def num_features(self) -> int:
        """The number of features of an image."""
        sizes: Any = self.hidden_sizes
        return int(sizes[-1])


class _SmallImageModel(PreTrainedModel):
    """The base of the models in this module."""

    base_model_prefix = "backbone"
    main_input_name = "pixel_values"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear | nn.BatchNorm2d):
            module.reset_parameters()


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    """Return a 3x3 convolution with batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class _Residual(nn.Module):
    """Two convolutions whose output is added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _convolution(channels, channels), _convolution(channels, channels)
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the sum of *hidden*, (n, c, h, w), and the layers' output, of the same shape."""
        added: Tensor = self.layers(hidden)
        return hidden + added


class ResNet9Model(_SmallImageModel):
    """A resnet9 without its last layer."""

    config_class = ResNet9Config

    def __init__(self, config: ResNet9Config) -> None:
        """Create a network with random weights.

        Args:
            config: The `width` and the `num_channels` of the images.
        """
        super().__init__(config)
        width = config.width
        self.blocks = nn.ModuleList(
            [
                _convolution(config.num_channels, width),
                nn.Sequential(
                    _convolution(width, 2 * width), nn.MaxPool2d(2), _Residual(2 * width)
                ),
                nn.Sequential(_convolution(2 * width, 4 * width), nn.MaxPool2d(2)),
                nn.Sequential(
                    _convolution(4 * width, 8 * width), nn.MaxPool2d(2), _Residual(8 * width)
                ),
            ]
        )
        self.pooler = nn.AdaptiveMaxPool2d(1)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPoolingAndNoAttention:
        """Return the features of images.

        Args:
            pixel_values: (n, 3, h, w) float32, normalised; h and w are at least 8.

        Returns:
            `last_hidden_state`, (n, d, h / 8, w / 8), and `pooler_output`, its maxima, (n, d, 1,
            1), where d is 8 times the width.
        """
        hidden = pixel_values
        for block in self.blocks:
            hidden = block(hidden)
        return BaseModelOutputWithPoolingAndNoAttention(
            last_hidden_state=hidden, pooler_output=self.pooler(hidden)
        )


class Stem3ResNetModel(_SmallImageModel):
    """A ResNet with a 3x3 convolution as its first layer, without its last layer."""

    config_class = Stem3ResNetConfig

    def __init__(self, config: Stem3ResNetConfig) -> None:
        """Create a network with random weights.

        Args:
            config: The configuration of a ResNet of `transformers`.
        """
        super().__init__(config)
        self.embedder = _convolution(config.num_channels, config.embedding_size)
        self.encoder = ResNetEncoder(config)
        self.pooler = nn.AdaptiveAvgPool2d(1)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPoolingAndNoAttention:
        """Return the features of images.

        Args:
            pixel_values: (n, 3, h, w) float32, normalised.

        Returns:
            `last_hidden_state`, (n, d, h / 8, w / 8), and `pooler_output`, its mean, (n, d, 1, 1).
        """
        hidden = self.encoder(self.embedder(pixel_values)).last_hidden_state
        return BaseModelOutputWithPoolingAndNoAttention(
            last_hidden_state=hidden, pooler_output=self.pooler(hidden)
        )


class _SmallImageClassifier(_SmallImageModel):
    """A model of this module with a last layer that gives the scores of classes."""

    def __init__(
        self, config: Any, backbone: nn.Module, *, bias: bool = True, scale: float = 1.0
    ) -> None:
        super().__init__(config)
        self.backbone = backbone
        self.classifier = nn.Linear(config.num_features, config.num_labels, bias=bias)
        self._scale = scale
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(self, pixel_values: Tensor, **_: Any) -> ImageClassifierOutputWithNoAttention:
        """Return the scores of classes.

        Args:
            pixel_values: (n, 3, h, w) float32, normalised.

        Returns:
            `logits`, (n, C) float32 unless autocast lowers it.
        """
        features = self.backbone(pixel_values).pooler_output.flatten(1)
        return ImageClassifierOutputWithNoAttention(logits=self.classifier(features) * self._scale)


class ResNet9ForImageClassification(_SmallImageClassifier):
    """A resnet9 with its last layer, which has no bias."""

    config_class = ResNet9Config

    def __init__(self, config: ResNet9Config) -> None:
        """Create a network with random weights.

        Args:
            config: The `width`, the `num_channels` of the images, and `num_labels`.
        """
        super().__init__(config, ResNet9Model(config), bias=False, scale=LOGIT_SCALE)


class Stem3ResNetForImageClassification(_SmallImageClassifier):
    """A ResNet with a 3x3 convolution as its first layer."""

    config_class = Stem3ResNetConfig

    def __init__(self, config: Stem3ResNetConfig) -> None:
        """Create a network with random weights.

        Args:
            config: The configuration of a ResNet of `transformers`, with `num_labels`.
        """
        super().__init__(config, Stem3ResNetModel(config))


for _config, _model, _classifier in (
    (ResNet9Config, ResNet9Model, ResNet9ForImageClassification),
    (Stem3ResNetConfig, Stem3ResNetModel, Stem3ResNetForImageClassification),
):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModel.register(_config, _model, exist_ok=True)
    AutoModelForImageClassification.register(_config, _classifier, exist_ok=True)
