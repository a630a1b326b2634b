"""Export the trunk that a DeViSE run has trained as a model folder for `transformers`.

The run must have trained its trunk (`--learn all`). The folder holds config.json,
model.safetensors and preprocessor_config.json. Open it with `transformers`, or pass it as `--trunk`
to `tesserae features` or to another run.
"""

from workflows.commands import Command
from workflows.runs.options import ExportOptions

COMMAND = Command((ExportOptions,), "workflows.runs.export:run_export")
