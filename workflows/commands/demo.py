"""Run the whole pipeline once: sample, prepare, verify, train and search.

Without --data, the demo uses a small embedded sample made from scikit-image's photographs. It
checks that everything works; its results mean nothing. `--data imagenette` downloads a public
subset of ImageNet. Any other --data is the path of a folder or archive of images.
"""

from workflows.commands import Command
from workflows.sample_data.options import DemoOptions

COMMAND = Command((DemoOptions,), "workflows.sample_data.demo:run_demo")
