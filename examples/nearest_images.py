"""Print the images nearest to one by its features: `python nearest_images.py STORE FEATURES ROW`.

`tesserae features STORE --trunk MODEL` computes features once and prints their name.
"""

import sys

import numpy as np
from pyarrow import parquet

import tesserae

store, name, row = sys.argv[1], sys.argv[2], int(sys.argv[3])
features = tesserae.open_features(store, name, "train")
vectors = features.rows(np.arange(len(features)))  # (rows, d) float32; zeros for unreadable rows
index = tesserae.build_index("exact", vectors)  # or "hnsw", for millions of rows
results = index.search(vectors[[row]], 5, exclude=np.array([row]))

keys = parquet.read_table(f"{store}/samples/train.parquet", columns=["key"])["key"]
print(f"nearest to row {row}, {keys[row]}:")
for score, neighbour in zip(results.scores[0], results.rows[0], strict=True):
    print(f"{score:.3f}  row {neighbour}, {keys[int(neighbour)]}")
