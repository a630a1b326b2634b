"""Reproduce claims of papers with small experiments, and print a table of the results.

`gaussians` and `digits` generate their own data. `devise` needs a store with features and a file of
word vectors, `parity` a store and the images that it was prepared from.
"""

from workflows.commands import Command, Group
from workflows.studies.options import (
    DeviseStudyOptions,
    DigitsOptions,
    GaussiansOptions,
    ParityOptions,
    ParityRecipe,
)
from workflows.studies.parallel.options import ParallelOptions

COMMAND = Group(
    "STUDY",
    lambda: {
        "gaussians": Command(
            (GaussiansOptions,),
            "workflows.studies.command:gaussians",
            "How many modes of a grid of 25 Gaussians does a generator cover?",
        ),
        "digits": Command(
            (DigitsOptions,),
            "workflows.studies.command:digits",
            "Do the critic's estimate and the discriminator's loss track sample quality?",
        ),
        "devise": Command(
            (DeviseStudyOptions,),
            "workflows.studies.command:devise",
            "Does DeViSE recognise unseen classes better than simpler baselines?",
        ),
        "parity": Command(
            (ParityOptions, ParityRecipe),
            "workflows.studies.parity.command:parity",
            "Does a classifier learn from the loader what it learns from torch's DataLoader?",
        ),
        "parallel": Command(
            (ParallelOptions,),
            "workflows.studies.parallel.command:parallel",
            "Which library, and how many threads or processes, decode fastest on this machine?",
        ),
    },
)
