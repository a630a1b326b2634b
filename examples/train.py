"""Train a small classifier on a store, on a GPU if there is one: `python train.py STORE`.

After an interruption, the same command goes on with the epoch that was not complete.
"""

import sys
from pathlib import Path

import torch
from torch import nn

import tesserae

EPOCHS, CHECKPOINT = 3, Path("checkpoint.pt")
HALF = (0.5, 0.5, 0.5)  # pixels become numbers from -1 to 1

torch.manual_seed(0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
loader = tesserae.Loader(sys.argv[1], "train", size=72, batch_size=32)
augment = tesserae.Augment(size=64, crop="random", mean=HALF, std=HALF)
convolution, linear = nn.Conv2d(3, 32, 8, stride=8), nn.Linear(32 * 8 * 8, len(loader.classes))
model = nn.Sequential(convolution, nn.ReLU(), nn.Flatten(), linear).to(device)
parts = {"model": model, "optimizer": torch.optim.AdamW(model.parameters()), "loader": loader}
first = 0
if CHECKPOINT.exists():
    state = torch.load(CHECKPOINT, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    first = loader.epoch + 1  # a checkpoint is written at the end of an epoch

for epoch in range(first, EPOCHS):
    loader.set_epoch(epoch)
    for images, labels, rows in loader:  # (32, 3, 72, 72) uint8, (32,) int64, (32,) int64
        pixels = augment(images.to(device, non_blocking=True), rows, epoch)  # float32, 64 px
        loss = nn.functional.cross_entropy(model(pixels), labels.to(device))
        parts["optimizer"].zero_grad()
        loss.backward()
        parts["optimizer"].step()
    print(f"epoch {epoch}: loss {loss.item():.3f}")
    torch.save({name: part.state_dict() for name, part in parts.items()}, CHECKPOINT)
