"""Train with weights sharded by FSDP2: `torchrun --nproc-per-node 2 train_fsdp.py STORE [STEPS]`.

It breaks off after STEPS steps; the same command goes on from there, on any number of ranks.
"""

import sys
from itertools import islice
from pathlib import Path

import torch
from torch import distributed, nn
from torch.distributed import checkpoint, fsdp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

import tesserae

FOLDER, STEPS = Path("fsdp"), int(sys.argv[2]) if len(sys.argv) > 2 else None
distributed.init_process_group()  # before the first batch: the loader asks it for the rank
device = "cuda" if torch.cuda.is_available() else "cpu"
mesh = distributed.init_device_mesh(device, (distributed.get_world_size(),))  # chooses the GPU
torch.manual_seed(0)
loader = tesserae.Loader(sys.argv[1], size=72, batch_size=16, drop_last=False)  # of all ranks
layers = nn.Conv2d(3, 32, 8, 8), nn.ReLU(), nn.Flatten(), nn.Linear(2592, len(loader.classes))
model = fsdp.fully_shard(nn.Sequential(*layers).to(device), mesh=mesh)
optimizer = torch.optim.AdamW(model.parameters())
if FOLDER.exists():
    weights, moments = get_state_dict(model, optimizer)  # their shards, which are overwritten
    state = {"model": weights, "optimizer": moments, "loader": loader}
    checkpoint.load(state, checkpoint_id=FOLDER)
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments)
for batch in islice(loader.remaining(2), STEPS):
    scores = model(batch.images.to(device) / 127.5 - 1)
    losses = nn.functional.cross_entropy(scores, batch.labels.to(device), reduction="none")
    optimizer.zero_grad()
    (losses * batch.row_weight).sum().backward()  # gradients are averaged over the ranks
    optimizer.step()
weights, moments = get_state_dict(model, optimizer)
checkpoint.save({"model": weights, "optimizer": moments, "loader": loader}, checkpoint_id=FOLDER)
distributed.destroy_process_group()
