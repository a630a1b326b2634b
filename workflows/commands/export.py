"""Export the network that a run has trained, or with --to the rows of a store for other tools.

Of a classifier it is the whole network, with the names of its classes. Of a DeViSE run it is the
trunk, which the run must have trained (`--learn all`). The folder holds config.json,
model.safetensors and preprocessor_config.json. Open it with `transformers`, or pass it as `--trunk`
to `tesserae features` or to another run. Its README.md is a card with options, data and figures.

Of a run whose network returns images it is an ONNX file, which returns float32 RGB from 0 to 1,
(n, 3, h, w). The input is images of any size (superres), grey images whose sides are multiples of 4
(colourise), or standard normal noise, and labels if the GAN is conditional (wgan). The results are
compared with torch's before the file is written. Its metadata describes the network.

With --to parquet or webdataset, the argument is a store. Each shard becomes a file, with the images
as PNG or as their encoded bytes, and a README.md says what they are and where they come from. Run
the same command again to resume: files that exist are complete.
"""

from workflows.commands import Command
from workflows.runs.options import ExportOptions

COMMAND = Command((ExportOptions,), "workflows.runs.export:run_export")
