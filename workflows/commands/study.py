"""Test claims of papers, or compare methods on your own data, and print a table of the results.

`gaussians` and `digits` generate their own data; the others need a store, a folder of images, or
features and word vectors, as the help text of each says.

`gaussians`, `digits` and `devise` only print their results, and begin anew when they are run again;
the others record what is finished in a folder, --out, from which the same command continues.
"""

from workflows.commands import Command, Group
from workflows.studies.cosine.options import CosineOptions
from workflows.studies.cut.options import CutOptions
from workflows.studies.fit.options import FitOptions
from workflows.studies.gans.options import AdversarialOptions, HacksOptions, TwoChangesOptions
from workflows.studies.neighbours.options import NeighboursOptions
from workflows.studies.options import (
    DeviseStudyOptions,
    DigitsOptions,
    GaussiansOptions,
    ParityOptions,
    ParityRecipe,
)
from workflows.studies.parallel.options import ParallelOptions
from workflows.studies.perceptual.options import PerceptualOptions

_UNRECORDED = "\nIt records nothing: if it is interrupted, it begins anew."
"""The end of the help text of a study whose results are only printed."""

COMMAND = Group(
    "STUDY",
    lambda: {
        "gaussians": Command(
            (GaussiansOptions,),
            "workflows.studies.command:gaussians",
            "How many modes of a grid of 25 Gaussians does a generator cover?" + _UNRECORDED,
        ),
        "digits": Command(
            (DigitsOptions,),
            "workflows.studies.command:digits",
            "Do the critic's estimate and the discriminator's loss track sample quality?"
            + _UNRECORDED,
        ),
        "two-changes": Command(
            (TwoChangesOptions,),
            "workflows.studies.gans.command:two_changes",
            "What do WGAN's loss, its clip and its optimiser each do to a DCGAN?",
        ),
        "hacks": Command(
            (HacksOptions,),
            "workflows.studies.gans.command:hacks",
            "What does each tip for training GANs do to a DCGAN?",
        ),
        "adversarial": Command(
            (AdversarialOptions,),
            "workflows.studies.gans.command:adversarial",
            "What does a critic add to the mean error of a colourisation?",
        ),
        "perceptual": Command(
            (PerceptualOptions,),
            "workflows.studies.perceptual.command:perceptual",
            "Does a perceptual or an adversarial loss enlarge images better than one of pixels?",
        ),
        "devise": Command(
            (DeviseStudyOptions,),
            "workflows.studies.command:devise",
            "Does DeViSE recognise unseen classes better than simpler baselines?" + _UNRECORDED,
        ),
        "parity": Command(
            (ParityOptions, ParityRecipe),
            "workflows.studies.parity.command:parity",
            "Does a classifier learn from the loader what it learns from torch's DataLoader?",
        ),
        "cosine": Command(
            (CosineOptions,),
            "workflows.studies.cosine.command:cosine",
            "When do dot product, cosine and Euclidean distance agree, and which one to use?",
        ),
        "neighbours": Command(
            (NeighboursOptions,),
            "workflows.studies.neighbours.command:neighbours",
            "When is approximate search faster than exact search, and what does it cost?",
        ),
        "parallel": Command(
            (ParallelOptions,),
            "workflows.studies.parallel.command:parallel",
            "Which library, and how many threads or processes, decode fastest on this machine?",
        ),
        "cut": Command(
            (CutOptions,),
            "workflows.studies.cut.command:cut",
            "After which block of a network, pooled or not, are features worth storing?",
        ),
        "fit": Command(
            (FitOptions,),
            "workflows.studies.fit.command:fit",
            "How should rectangular photographs become squares: cropped, padded or squished?",
        ),
    },
)
