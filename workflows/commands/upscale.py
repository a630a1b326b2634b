"""Enlarge images by 2, 3 or 4 with a network that `tesserae train superres` has trained.

Images of any size are computed in tiles, so that even the largest need little memory. Of a folder
all images are enlarged, and a further run goes on where an earlier one has stopped. The results are
PNG files, without loss, unless --format or the name of a single file says otherwise. Transparency,
colour profiles and the facts of a photograph (EXIF) are kept, and photographs are turned upright.
Files that cannot be enlarged are named on standard error, and the exit status is then 1: those that
are unreadable, and those with more than 8 bits a sample or with colours of print (CMYK).

With --store and --size, the images of a whole store are enlarged instead. They become a new array
of the store, which loaders and any zarr reader read. Each shard is one task of the cluster, and
runs on a GPU if the cluster has any. Run the same command again to resume: shards that are
committed are kept, and shards that are missing or whose images have changed are computed again.
"""

from workflows.commands import Command
from workflows.runs.options import UpscaleOptions

COMMAND = Command((UpscaleOptions,), "workflows.runs.upscale.command:run_upscale")
