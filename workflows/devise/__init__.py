"""The DeViSE stage, which maps images into word space (Frome et al., NIPS 2013).

options        the flags of the stage              class_splits  seen, validation, unseen classes
words          `tesserae words`                    word_space    the vectors of classes
data           features, vectors and loaders       heads         features -> word space
losses         hinge-rank, cosine, L2, InfoNCE     stage         the training
model          a trained run, for search           accuracy      hit@k, hp@k, seen and unseen
baselines      ridge, ConSE, softmax, random       clip          CLIP, for comparison
evaluation     metrics and images of a run's report
"""
