"""Try what papers claim, and print a table of what came out.

gaussians   25 Gaussians on a grid: how many of them does a generator find?
digits      does the critic's estimate track how good samples are, and a discriminator's loss?
devise      does DeViSE name classes that it never learned from, better than simpler ways do?

The first two are of data that every machine has; devise is of a store, of its features, and of a
file of word vectors.
"""

from __future__ import annotations

import argparse

from pipeline.wordvectors.vectors import SYNONYMS
from workflows.adversarial.objectives import OBJECTIVES
from workflows.commands.ranges import whole
from workflows.studies import SETTINGS, STUDIES

IMPLEMENTATION = "workflows.studies.tables"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `tesserae study`."""
    parser.add_argument("study", metavar="STUDY", choices=STUDIES, help=", ".join(STUDIES))
    parser.add_argument(
        "--seeds", type=whole(1), default=5, help="runs of each kind, by seeds 0, 1, ... (5)"
    )
    parser.add_argument(
        "--steps",
        type=whole(1),
        help="steps of each run (as each study has it: gaussians 8000, digits 2000)",
    )
    parser.add_argument(
        "--objectives",
        nargs="+",
        choices=OBJECTIVES,
        default=list(OBJECTIVES),
        metavar="NAME",
        help=f"objectives to train with (all: {' '.join(OBJECTIVES)})",
    )
    parser.add_argument(
        "--settings",
        nargs="+",
        choices=SETTINGS,
        default=list(SETTINGS),
        metavar="NAME",
        help="paper = each objective as its paper has it; alike = one optimiser, rate, number of"
        " critic updates and norm for all of them (both)",
    )
    parser.add_argument(
        "--threads",
        type=whole(1, 1_000),
        default=1,
        help="CPU threads of a run; small networks are fastest with one (1)",
    )
    devise = parser.add_argument_group("devise")
    devise.add_argument("--store", help="store with finished splits train and val (needed)")
    devise.add_argument(
        "--features", help="name of the store's features (the only ones that it has)"
    )
    devise.add_argument("--words", metavar="FILE", help="file of word vectors (needed)")
    devise.add_argument(
        "--names", metavar="FILE", help="an id of a class and its names on each line (the store's)"
    )
    devise.add_argument("--synonyms", choices=SYNONYMS, default="mean", help="(mean)")
    devise.add_argument("--clip", metavar="MODEL", help="CLIP model to put beside them")
    devise.add_argument("--hierarchy", metavar="FILE", help="is-a edges, for hp@k")
    devise.add_argument("--unseen", default="40", help="classes that nothing is learned from (40)")
    devise.add_argument("--batch-size", type=whole(1), default=256, help="of DeViSE (256)")
    devise.add_argument("--validation", type=whole(2), default=30, help="classes to choose by (30)")
