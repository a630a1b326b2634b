"""Say what images are, with a network that `tesserae train classify` has trained.

Each image is decoded and resized as the store of the run was prepared. Images that cannot be read
are named on standard error, and the exit status is then 1.
"""

from workflows.commands import Command
from workflows.runs.options import ClassifyImagesOptions

COMMAND = Command((ClassifyImagesOptions,), "workflows.runs.classify_images:run_classify_images")
