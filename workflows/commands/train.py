"""Train a model on a store, with data-parallel ranks on a cluster.

After Ctrl-C or a crash, run the same command again to resume from the last checkpoint; the number
of ranks may differ. With --data, the store is prepared first on the same cluster: training starts
when its split is finished, while the other splits are still being prepared.
"""

from workflows.commands import Command, Group
from workflows.training.run_options import RunOptions
from workflows.training.stage_registry import STAGES, import_object

COMMAND = Group(
    "STAGE",
    lambda: {
        name: Command(
            (import_object(stage.options), RunOptions),
            "workflows.runs.train:run_train",
            f"{stage.summary[0].upper()}{stage.summary[1:]}.",
        )
        for name, stage in STAGES.items()
    },
)
