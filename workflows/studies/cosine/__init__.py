"""Cosine distance: when do dot product, cosine and Euclidean distance agree, and which to use?

    options    the options
    rankings   the nearest vectors by each measure of similarity
    measure    norms, centring, hubness, agreement, and neighbours of the same class
    summary    the tables, the figures and the answers
    command    `tesserae study cosine`

A run measures one measure of similarity, or one form of the vectors, on the sample of one seed.
"""
