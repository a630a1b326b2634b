"""A trained network that says what is in a picture: its features, given by name or folder.

Any vision model of `transformers`, in safetensors; no code that comes with a model is run. A name
is looked up in the local cache and, where there is a network, fetched from the model hub. `new` is
a small residual network that has learned nothing yet. Of a model of pictures and words, such as
CLIP, it is the part that sees.

Features are what comes out at the end, or behind any block of it, the cut, pooled over the picture:

    end     as the model pools it itself, if it learned to; else the mean
    mean    over places                   grid    over each quarter of the picture, side by side
    max     over places                   token   the first, of a transformer

network    pictures -> features        cutting    blocks of a network, and pooling
opening    from a folder or the hub    transform  pictures as a network takes them
saving     into a folder                choices    what may be chosen, in words
"""
