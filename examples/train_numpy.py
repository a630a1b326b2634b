"""Train softmax regression in NumPy, without torch: `python train_numpy.py STORE [STEPS]`.

It breaks off after STEPS steps; the same command goes on from there.
"""

import json
import sys
from itertools import islice
from pathlib import Path

import numpy as np

import tesserae

EPOCHS, CHECKPOINT, RATE = 2, Path("numpy.npz"), 0.01
STEPS = int(sys.argv[2]) if len(sys.argv) > 2 else None
loader = tesserae.Loader(sys.argv[1], size=72, batch_size=16, drop_last=False, framework="numpy")
weights = np.zeros((72 * 72 * 3, len(loader.classes)), np.float32)
if CHECKPOINT.exists():
    with np.load(CHECKPOINT) as state:
        weights = state["weights"]
        loader.load_state_dict(json.loads(str(state["loader"])))
for images, labels, rows in islice(loader.remaining(EPOCHS), STEPS):
    pixels = images.reshape(len(rows), -1) / np.float32(127.5) - 1  # of (n, 72, 72, 3) uint8
    scores = pixels @ weights
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    errors = odds / odds.sum(axis=1, keepdims=True)
    errors[np.arange(len(rows)), labels] -= 1  # the gradient of the cross-entropy
    weights -= RATE / len(rows) * pixels.T @ errors
np.savez(CHECKPOINT, weights=weights, loader=json.dumps(loader.state_dict()))
