"""Wasserstein GANs and related GANs, which learn from a store to generate pictures from noise.

options      the flags of the stage         generators   networks that generate pictures
stage        the training stage             sampling     samples of a trained generator
evaluation   the metrics of a finished run
"""
