"""Parity with torch's DataLoader: one recipe, fed by the loader and by a plain decoding dataset.

    source_images  the plain dataset, which decodes the images of a source
    feeds          batches of a stage that come from a DataLoader, and a trace of what a stage got
    data           the source, the store and the recipe, which must belong together
    bits           same order and pixels: are the weights after an epoch equal to the bit?
    arm_runs       own orders: the held-out accuracy of each arm and seed
    results        the folder of finished runs, by which a study continues
    summary        the lines and the table that the command prints
    child_errors   sentences of errors in other processes
    command        `tesserae study parity`

Both feeds share everything but the source of a batch: a difference can have no other cause.
"""

RANDOM, WINDOWED, DATALOADER = "random", "windowed", "dataloader"
ARMS = (RANDOM, WINDOWED, DATALOADER)
"""The arms: the loader in random and in windowed order, and torch's DataLoader with its shuffle."""

RAW, ENCODED = "raw", "encoded"
FORMS = (RAW, ENCODED)
"""The forms of stored images: squares of raw pixels, and encoded rows."""

BITS, ACCURACY = "bits", "accuracy"
PARTS = (BITS, ACCURACY)
"""The parts of the study: equality to the bit, and the accuracy of each arm."""
