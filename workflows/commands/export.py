"""Export the network that a run has trained as a model folder for `transformers`.

Of a classifier it is the whole network, with the names of its classes. Of a DeViSE run it is the
trunk, which the run must have trained (`--learn all`). The folder holds config.json,
model.safetensors and preprocessor_config.json. Open it with `transformers`, or pass it as `--trunk`
to `tesserae features` or to another run.
"""

from workflows.commands import Command
from workflows.runs.options import ExportOptions

COMMAND = Command((ExportOptions,), "workflows.runs.export:run_export")
