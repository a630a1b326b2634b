"""Pretrained networks that compute the features of images, given by name or folder.

Any vision model of `transformers` in safetensors; no code that comes with a model is run. A name is
looked up in the local cache and, if there is a network connection, downloaded from the model hub.
`new` is a small untrained residual network. Of a model of images and text, such as CLIP, the vision
part is used.

Features are the output of the last block, or of any other one, the cut, pooled over the image:

    end     as the model pools it itself, if it learned to; otherwise the mean
    mean    over positions                grid    over each quarter of the image, concatenated
    max     over positions                token   the first token of a transformer

network    images -> features          truncate   blocks of a network, and pooling
load       from a folder or the hub    transform  how a network takes its images
save       into a folder               files      checks of a model's files
choices    the names of choices        determinism  checks that features are reproducible
"""
