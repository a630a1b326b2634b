"""The study of losses for super-resolution: which one enlarges best, after equally long training?

fast.ai's lesson of 2017 on super-resolution replaced the loss of pixels by one of features, a
perceptual loss (Johnson et al.: Perceptual Losses for Real-Time Style Transfer and
Super-Resolution, ECCV 2016), said that an adversarial loss improves any such paper, and showed
images without a figure. Here the same network is trained with each loss, and two vision networks
take turns: one is in the loss, and the other one judges.

images      the pairs that networks are trained and judged on
judges      the vision networks: their blocks, and the distance of images in their features
experiment  the arms of the study, their numbers of steps, and a run of one of them
samples     crops of the enlarged images, side by side
summary     tables, answers and figures
"""

BICUBIC = "bicubic"
"""The control: images enlarged by interpolation."""
PIXEL, PERCEPTUAL, ADVERSARIAL = "pixel", "perceptual", "perceptual + adversarial"
"""The losses that are compared."""
