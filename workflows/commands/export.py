"""Export the network that a run has trained, as a model folder for `transformers` or as ONNX.

Of a classifier it is the whole network, with the names of its classes. Of a DeViSE run it is the
trunk, which the run must have trained (`--learn all`). The folder holds config.json,
model.safetensors and preprocessor_config.json. Open it with `transformers`, or pass it as `--trunk`
to `tesserae features` or to another run.

Of a run of super-resolution it is an ONNX file for images of any size: its input and its output are
float32 RGB from 0 to 1, (n, 3, h, w). Its results are compared with torch's before it is written.
"""

from workflows.commands import Command
from workflows.runs.options import ExportOptions

COMMAND = Command((ExportOptions,), "workflows.runs.export:run_export")
