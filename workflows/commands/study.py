"""Reproduce claims of papers with small experiments, and print a table of the results.

gaussians   a mixture of 25 Gaussians on a grid: how many modes does a generator cover?
digits      do the critic's estimate and the discriminator's loss track sample quality?
devise      does DeViSE recognise classes it was not trained on better than simpler baselines?

The first two generate their own data. `devise` needs a store with features and a file of word
vectors.
"""

from __future__ import annotations

import argparse

from pipeline.wordvectors.vectors import SYNONYMS
from workflows.adversarial.objectives import OBJECTIVES
from workflows.commands.ranges import integer
from workflows.studies import SETTINGS, STUDIES

IMPLEMENTATION = "workflows.studies.tables"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `tesserae study`."""
    parser.add_argument(
        "study", metavar="STUDY", choices=STUDIES, help=f"study to run: {', '.join(STUDIES)}"
    )
    parser.add_argument(
        "--seeds",
        type=integer(1),
        default=5,
        metavar="N",
        help="number of repetitions of each configuration, with seeds 0, 1, ... (default 5)",
    )
    parser.add_argument(
        "--steps",
        type=integer(1),
        metavar="N",
        help="training steps of each run (default: gaussians 8000, digits 2000)",
    )
    parser.add_argument(
        "--objectives",
        nargs="+",
        choices=OBJECTIVES,
        default=list(OBJECTIVES),
        metavar="NAME",
        help=f"objectives to train with (default all: {' '.join(OBJECTIVES)})",
    )
    parser.add_argument(
        "--settings",
        nargs="+",
        choices=SETTINGS,
        default=list(SETTINGS),
        metavar="NAME",
        help="paper trains each objective with its paper's hyperparameters; alike uses one"
        " optimiser, learning rate, number of critic updates and normalisation for all of them"
        " (default: both)",
    )
    parser.add_argument(
        "--threads",
        type=integer(1, 1_000),
        default=1,
        metavar="N",
        help="CPU threads of a run; small networks are fastest with one (default 1)",
    )
    devise = parser.add_argument_group("devise")
    devise.add_argument(
        "--store",
        help="folder or URL of a store with finished splits train and val (required)",
    )
    devise.add_argument(
        "--features", metavar="NAME", help="name of the store's features (default: the only ones)"
    )
    devise.add_argument(
        "--words",
        metavar="FILE",
        help="file of word vectors: word2vec, GloVe or fastText (required)",
    )
    devise.add_argument(
        "--names",
        metavar="FILE",
        help="text file with a class id and its names on each line (default: the store's names)",
    )
    devise.add_argument(
        "--synonyms",
        choices=SYNONYMS,
        default="mean",
        help="how a class with several names gets its vector: from the first name, or as the mean"
        " over all names that have one (default mean)",
    )
    devise.add_argument(
        "--clip",
        metavar="MODEL",
        help="CLIP model, a folder or a hub name, to compare with (default: none)",
    )
    devise.add_argument(
        "--hierarchy",
        metavar="FILE",
        help="file of is-a edges, for hierarchical precision hp@k (default: leave it out)",
    )
    devise.add_argument(
        "--unseen",
        default="40",
        metavar="CLASSES",
        help="number of randomly drawn classes that are excluded from training, or a file that"
        " lists their wnids (default 40)",
    )
    devise.add_argument(
        "--batch-size",
        type=integer(1),
        default=256,
        metavar="N",
        help="batch size of DeViSE's training (default 256)",
    )
    devise.add_argument(
        "--validation",
        type=integer(2),
        default=30,
        metavar="N",
        help="number of training classes held out to select hyperparameters (default 30)",
    )
