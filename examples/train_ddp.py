"""Train with DistributedDataParallel: `torchrun --nproc-per-node 2 train_ddp.py STORE [STEPS]`.

It breaks off after STEPS steps; the same command goes on from there, on any number of ranks.
"""

import sys
from itertools import islice
from pathlib import Path

import torch
from torch import distributed, nn

import tesserae

EPOCHS, CHECKPOINT = 2, Path("ddp.pt")
STEPS = int(sys.argv[2]) if len(sys.argv) > 2 else None
distributed.init_process_group()  # before the first batch: the loader asks it for the rank
gpu = torch.device("cuda", distributed.get_node_local_rank())
device = gpu if torch.cuda.is_available() else torch.device("cpu")
torch.manual_seed(0)
loader = tesserae.Loader(sys.argv[1], size=72, batch_size=16, drop_last=False)  # of all ranks
layers = nn.Conv2d(3, 32, 8, 8), nn.ReLU(), nn.Flatten(), nn.Linear(2592, len(loader.classes))
model = nn.parallel.DistributedDataParallel(nn.Sequential(*layers).to(device))
optimizer = torch.optim.AdamW(model.parameters())
parts = {"model": model, "optimizer": optimizer, "loader": loader}
if CHECKPOINT.exists():
    for name, state in torch.load(CHECKPOINT, map_location=device, weights_only=True).items():
        parts[name].load_state_dict(state)
for batch in islice(loader.remaining(EPOCHS), STEPS):
    scores = model(batch.images.to(device) / 127.5 - 1)
    losses = nn.functional.cross_entropy(scores, batch.labels.to(device), reduction="none")
    optimizer.zero_grad()
    (losses * batch.row_weight).sum().backward()  # gradients are averaged over the ranks
    optimizer.step()
distributed.barrier()  # another rank may still read the checkpoint of before
if distributed.get_rank() == 0:
    torch.save({name: part.state_dict() for name, part in parts.items()}, CHECKPOINT)
distributed.destroy_process_group()
