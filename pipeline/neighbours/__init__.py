"""Nearest neighbours by cosine, among a thousand vectors or millions.

    index = build("hnsw", vectors)
    results = index.search(queries, 10)   results.scores, results.rows: the nearest first

Scores are exact cosines for every kind of index; of equal scores the lower row comes first:

    exact    compares a query with every vector, on the processor or a GPU
    lsh      finds candidates by bits of random directions and compares those exactly
    hnsw     finds candidates in a graph of neighbours and compares those exactly

The recall of the last two is measured when they are built and recorded in `index.facts`.

    vectors      vectors and their lengths
    exact        candidates from a scan of all vectors: in blocks, or on a device
    approximate  candidates by faiss
    build        builds an index of each kind
    rerank       exact comparison of candidates
    index        `Index.search`, the interface of all kinds
    results      search results, their recall, and the removal of duplicates
    csls         hubs, the vectors that are near to everything, and their correction
    storage      an index on disk
"""

from pipeline.neighbours.build import KINDS, build
from pipeline.neighbours.csls import hubness
from pipeline.neighbours.index import Index
from pipeline.neighbours.results import SearchResults, deduplicate, recall
from pipeline.neighbours.storage import load

__all__ = ["KINDS", "Index", "SearchResults", "build", "deduplicate", "hubness", "load", "recall"]
