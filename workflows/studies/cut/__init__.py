"""The study of cuts: after which block, and in which form, are features of a network worth storing?

Every block of a network is a cut: the output of a block is the input of the next one. A cut has up
to three forms:

    pooled         the mean of the map over positions
    map            the whole map, flattened
    pooled early   the map pooled with a window of the side of the network's last map, from which
                   the remaining blocks compute the network's features

`end` stands for the features of the whole network as it pools them itself, and `pixels` for the
images without a network.

images      the rows that heads are trained, validated and tested on
networks    networks, their cuts and the classes that they were trained on
grams       inner products of the features of images
heads       ridge regression from inner products; the linear probe, and DeViSE on unseen classes
experiment  the arms of the study, and a run of one of them
summary     tables, answers and figures
"""

POOLED, MAP, EARLY, END, PIXELS = "pooled", "map", "pooled early", "end", "pixels"
"""The forms of features."""
