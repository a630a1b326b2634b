"""Crop, pad or squish: how should a rectangular photograph become a square?

    photographs         the images that the study uses, with rectangles cut from squares
    stores              a small store for each fit, and the shapes of its images
    shapes              aspect ratios, and what each fit loses, leaves empty or distorts
    training            new networks, trained on one fit and evaluated on every fit
    training_summary    their tables, figures and answers
    pretrained          a pretrained network, evaluated on every fit without training
    pretrained_summary  its tables, figure and answers
    paired              intervals of shares and of paired differences over images
    report_parts        the question, the table and the notes that both reports share
    command             `tesserae study fit`

A store is made for each fit from the same photographs in the same order, so that row r shows the
same photograph in all of them.
"""

CROP, PAD, SQUISH = "crop", "pad", "squish"
FITS = (CROP, PAD, SQUISH)
"""The fits that are compared, in the order of the tables."""

DETECT, KEEP, CUT = "detect", "keep", "cut"
RECTANGLES = (DETECT, KEEP, CUT)
"""The origins of rectangles: photographs as they are, or cut out of them; `detect` cuts if nearly
all are squares."""
