"""Image classification: a network learns the classes of a store's images.

options        the flags of `tesserae train classify`
recipes        named recipes with their sources, and the one that suits a store and a machine
networks       the networks, new or pretrained
mixing         MixUp and CutMix
stage          the training stage
model          the network of a run
evaluation     accuracy, confusion and calibration, for the report of a run
"""
