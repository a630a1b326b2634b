"""Studies of adversarial losses on the images of a store.

two_changes   `tesserae study two-changes`: loss, clip and optimiser, each with each
hacks         `tesserae study hacks`: each tip against one base
adversarial   `tesserae study adversarial`: colourisation with and without a critic
recipes       the settings of a run         networks     generators and critics that tips change
training      a run of a recipe             metrics      samples compared with held-out images
images        the images of both studies    options      the flags of both
"""

LOSSES = ("cross-entropy", "mean-square-error", "mean-score")
"""The losses of the study of two changes: of DCGAN, of LSGAN and of WGAN."""
CONSTRAINTS = ("no-clip", "clip")
"""The critic's constraints of that study."""
OPTIMISERS = ("adam", "rmsprop")
"""The optimisers of that study, each with the learning rate of its paper."""
TIPS = (
    "sigmoid-output",
    "saturating-loss",
    "uniform-noise",
    "joint-batches",
    "no-batch-norm",
    "max-pooling",
    "soft-labels",
    "flipped-labels",
    "perceptron",
    "replay-buffer",
    "rmsprop",
    "sgd-critic",
    "balanced",
    "labels",
    "input-noise",
    "layer-noise",
    "more-critic-updates",
    "dropout",
)
"""The arms of the study of tips besides its base; `workflows.studies.gans.hacks` describes them."""
