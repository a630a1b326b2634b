"""Run a network over every image of a store and save its outputs beside the images.

Each shard is one task of the cluster, and runs on a GPU if the cluster has any. Run the same
command again to resume: shards that are committed are kept, and shards that are missing or whose
images have changed are computed again. --repair also checks the committed files and computes
damaged ones again. DeViSE trains on these features in minutes rather than hours.
"""

from workflows.commands import Command
from workflows.preparation.options import FeaturesOptions

COMMAND = Command((FeaturesOptions,), "workflows.preparation.features:run_features")
