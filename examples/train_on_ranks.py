"""Train on several processes or GPUs: `torchrun --nproc-per-node 2 train_on_ranks.py STORE`.

`batch_size` counts the rows of all ranks together: 1 rank and 8 ranks see the same batches.
"""

import gc
import sys

import torch
from torch import distributed, nn

import tesserae

HALF = (0.5, 0.5, 0.5)  # pixels become numbers from -1 to 1

distributed.init_process_group()  # before the first batch: the loader asks it for the rank
device = torch.device("cpu")
if torch.cuda.is_available():
    device = torch.device("cuda", distributed.get_node_local_rank())
    torch.cuda.set_device(device)
torch.manual_seed(0)
loader = tesserae.Loader(sys.argv[1], "train", size=72, batch_size=32, drop_last=False)
augment = tesserae.Augment(size=64, crop="random", mean=HALF, std=HALF)
convolution, linear = nn.Conv2d(3, 32, 8, stride=8), nn.Linear(32 * 8 * 8, len(loader.classes))
network = nn.Sequential(convolution, nn.ReLU(), nn.Flatten(), linear).to(device)
model = nn.parallel.DistributedDataParallel(network)
optimizer = torch.optim.AdamW(model.parameters())

for epoch in range(3):
    for batch in loader:
        pixels = augment(batch.images.to(device, non_blocking=True), batch.rows, epoch)
        scores, labels = model(pixels), batch.labels.to(device)
        losses = nn.functional.cross_entropy(scores, labels, reduction="none")
        loss = (losses * batch.row_weight).sum()  # its mean over ranks is that of the batch
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    distributed.all_reduce(loss)
    print(f"rank {loader.rank}, epoch {epoch}: loss {loss.item() / loader.world:.3f}")
# The threads of gloo end with the last reference to the group, which the model has, too. One that
# still held a tensor when Python ends would abort the process.
distributed.barrier()
del model, optimizer, loss
gc.collect()
distributed.destroy_process_group()
