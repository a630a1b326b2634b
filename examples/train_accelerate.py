"""Train with Accelerate: `accelerate launch train_accelerate.py STORE [STEPS]`.

It breaks off after STEPS steps; the same command goes on from there, on any number of ranks.
"""

import sys
from itertools import islice
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

import tesserae

EPOCHS, FOLDER = 2, Path("accelerate")
STEPS = int(sys.argv[2]) if len(sys.argv) > 2 else None
accelerator = Accelerator()
torch.manual_seed(0)
loader = tesserae.Loader(sys.argv[1], size=72, batch_size=16, drop_last=False)  # of all ranks
layers = nn.Conv2d(3, 32, 8, 8), nn.ReLU(), nn.Flatten(), nn.Linear(2592, len(loader.classes))
model = nn.Sequential(*layers)
# Without the loader, which knows its rank already: `prepare` would divide its batches once more.
model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters()))
accelerator.register_for_checkpointing(loader)
if FOLDER.exists():
    accelerator.load_state(FOLDER)
for batch in islice(loader.remaining(EPOCHS), STEPS):
    scores = model(batch.images.to(accelerator.device) / 127.5 - 1)
    labels = batch.labels.to(accelerator.device)
    losses = nn.functional.cross_entropy(scores, labels, reduction="none")
    optimizer.zero_grad()
    accelerator.backward((losses * batch.row_weight).sum())  # averaged over the ranks
    optimizer.step()
accelerator.save_state(FOLDER)
accelerator.end_training()
