"""Wasserstein GANs and related GANs, which learn from a store to generate images from noise.

options      the flags of the stage         generators   networks that generate images
stage        the training stage             sampling     samples of a trained generator
evaluation   the metrics of a finished run
"""
