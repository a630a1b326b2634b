"""Nearest neighbours by cosine, among a thousand vectors or millions.

    index = build("hnsw", vectors)
    found = index.search(queries, 10)     found.scores, found.rows: the nearest first

Whatever the kind, scores are exact cosines, and of equal ones the lower row comes first:

    exact    every vector is looked at, on the processor or a GPU
    lsh      candidates by bits of random directions, then exact among them
    hnsw     candidates by a graph of neighbours, then exact among them

How much the last two miss is measured when they are built, and stands in `index.facts`.

    vectors      vectors and their lengths
    exact        the nearest among all of them: in blocks, or on a device
    nominating   candidates, by faiss
    building     an index of each kind
    ranking      candidates, compared exactly
    index        the one face: search
    found        answers; recall, and each picture once though it is there twice
    hubs         vectors that are near to everything, and what helps against them
    files        an index on disk
"""

from pipeline.neighbours.build import KINDS, build
from pipeline.neighbours.csls import hubness
from pipeline.neighbours.index import Index
from pipeline.neighbours.results import Found, deduplicate, recall
from pipeline.neighbours.storage import load

__all__ = ["KINDS", "Found", "Index", "build", "deduplicate", "hubness", "load", "recall"]
