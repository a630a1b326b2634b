"""Nearest neighbours: when does approximate search pay, and what does it cost in recall and memory?

    options   the options
    methods   the searches that are compared, and how each is built
    growth    more vectors than there are at hand, as hard to search as those
    timing    recall and time of a search with the queries of a seed
    summary   the choice of settings, the tables and the figures
    command   `tesserae study neighbours`

A run measures one search with the queries of one seed. All searches are measured with a seed before
the next one, so that the seeds are rounds: what else the machine does slows all of them alike.
"""
