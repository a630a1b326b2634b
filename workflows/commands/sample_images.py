"""Generate images with a trained run and write them as a grid into one PNG file.

The same run, step and --seed generate the same images.
"""

from workflows.commands import Command
from workflows.runs.options import SampleImagesOptions

COMMAND = Command((SampleImagesOptions,), "workflows.runs.sample_images:run_sample_images")
