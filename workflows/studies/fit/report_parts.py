"""The question, the table and the notes that both reports share."""

from __future__ import annotations

from collections.abc import Iterator

from workflows.reports.table import Table
from workflows.studies.fit.photographs import MIN_SQUARES, PhotographsRecord
from workflows.studies.fit.shapes import elongation, fit_costs
from workflows.studies.fit.stores import EvaluatedImages
from workflows.terminal.formatting import counted

QUESTION = (
    "How should rectangular photographs become squares, for training and for the images that are"
    " asked about: cropped, padded or squished?"
)


def cost_table(images: EvaluatedImages) -> Table:
    """Return the table of what each fit loses, leaves empty and distorts.

    Args:
        images: The evaluated images, whose shapes decide it.
    """
    costs = fit_costs(elongation(images.widths, images.heights))
    rows = [
        [fit, f"{cost.lost:.1%}", f"{cost.empty:.1%}", f"{cost.stretch:.2f}", f"{cost.scale:.0%}"]
        for fit, cost in costs.items()
    ]
    columns = ["fit", "pixels lost", "square left empty", "stretched by", "scale of the short side"]
    title = f"What a fit does to the {len(images.labels):,} evaluated images, on average"
    return Table(title, columns, rows, text_columns=("fit",))


def rectangle_notes(record: PhotographsRecord) -> Iterator[str]:
    """Yield the sentences that say where the rectangles come from.

    Args:
        record: The record of the photographs.
    """
    if record.cut:
        yield (
            "The rectangles are artificial: one was cut out of each image, with an aspect ratio"
            " log-uniform between 1:2 and 2:1 and a position drawn from its key, the same for all"
            " fits. Photographers put their subject into the frame; such a cut does not."
        )
    else:
        yield f"Images are used as they are; {record.squares:.0%} of the examined ones are squares."
        if record.squares >= MIN_SQUARES:
            yield "All fits are equal for squares: pass --rectangles cut, and another --out."


def unreadable_notes(num_unreadable: int) -> Iterator[str]:
    """Yield a sentence on the images that were left out, if there are any.

    Args:
        num_unreadable: The number of images that cannot be decoded.
    """
    if num_unreadable:
        yield f"{counted(num_unreadable, 'image')} that cannot be decoded: left out for all fits."
