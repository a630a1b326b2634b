"""Train with Lightning on several processes or GPUs: `python train_lightning.py STORE 2 [STEPS]`.

It breaks off after the first STEPS steps; the same command with more goes on from there.
"""

import sys

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn

import tesserae


class Classifier(lightning.LightningModule):
    def __init__(self, num_classes):
        super().__init__()
        layers = nn.Conv2d(3, 32, 8, 8), nn.ReLU(), nn.Flatten(), nn.Linear(2592, num_classes)
        self.model = nn.Sequential(*layers)

    def training_step(self, batch):
        scores = self.model(batch.images / 127.5 - 1)
        losses = nn.functional.cross_entropy(scores, batch.labels, reduction="none")
        return (losses * batch.row_weight).sum()  # gradients are averaged over the ranks

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters())


torch.manual_seed(0)
ranks, steps = int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else -1
loader = tesserae.Loader(sys.argv[1], size=72, batch_size=16, drop_last=False)  # of all ranks
keep = ModelCheckpoint("lightning", save_last=True, every_n_train_steps=1)  # with the loader
trainer = lightning.Trainer(devices=ranks, max_epochs=2, max_steps=steps, callbacks=[keep])
trainer.fit(Classifier(len(loader.classes)), loader, ckpt_path="last")
