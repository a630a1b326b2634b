"""Wasserstein GANs and their family: pictures from noise, learned from a store.

options      what is asked for      generators   networks that make pictures
stage        the training itself
"""
