"""Pictures into word space: DeViSE (Frome et al., NIPS 2013).

options   what it can be asked for          splits   which classes are learned from
space     the vectors of classes            heads    features -> word space
losses    hinge-rank, cosine, L2, InfoNCE   stage    the training
gather    features, vectors and loaders, before the training
model     a trained run, for whoever searches or judges
baselines what it is compared with          judging  hit@k, hp@k, seen and unseen
"""
