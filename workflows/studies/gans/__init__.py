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
