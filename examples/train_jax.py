"""Train a classifier in JAX, without torch: `python train_jax.py STORE [STEPS]`.

It breaks off after STEPS steps; the same command goes on from there.
"""

import json
import sys
from itertools import islice
from pathlib import Path

import jax
import numpy as np
from jax import nn, numpy

import tesserae

EPOCHS, CHECKPOINT = 2, Path("jax.npz")
STEPS = int(sys.argv[2]) if len(sys.argv) > 2 else None
loader = tesserae.Loader(sys.argv[1], size=72, batch_size=16, drop_last=False, framework="numpy")


def loss(weights, images, labels):
    pixels = images.reshape(len(images), -1) / 127.5 - 1  # of (n, 72, 72, 3) uint8
    scores = nn.relu(pixels @ weights["in"]) @ weights["out"]
    return -numpy.take_along_axis(nn.log_softmax(scores), labels[:, None], axis=1).mean()


gradient = jax.jit(jax.grad(loss))
keys = jax.random.split(jax.random.key(0))
shapes = {"in": (72 * 72 * 3, 32), "out": (32, len(loader.classes))}
weights = {n: 0.01 * jax.random.normal(k, shapes[n]) for n, k in zip(shapes, keys, strict=True)}
if CHECKPOINT.exists():
    with np.load(CHECKPOINT) as state:
        weights = {name: state[name] for name in shapes}
        loader.load_state_dict(json.loads(str(state["loader"])))
for images, labels, _ in islice(loader.remaining(EPOCHS), STEPS):
    slopes = gradient(weights, images, labels)
    weights = jax.tree.map(lambda weight, slope: weight - 0.05 * slope, weights, slopes)
np.savez(CHECKPOINT, **jax.device_get(weights), loader=json.dumps(loader.state_dict()))
