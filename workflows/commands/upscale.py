"""Enlarge every image of a store with a network that `tesserae train superres` has trained.

The enlarged images become a new array of the store, which loaders and any zarr reader read. Each
shard is one task of the cluster, and runs on a GPU if the cluster has any. Run the same command
again to resume: shards that are committed are kept, and shards that are missing or whose images
have changed are computed again. --repair also checks the committed files and computes damaged ones
again.
"""

from workflows.commands import Command
from workflows.runs.options import UpscaleStoreOptions

COMMAND = Command((UpscaleStoreOptions,), "workflows.runs.upscale_store:run_upscale_store")
