"""The data path, in the order the data flows.

    sources  which images there are, and how their bytes are read
    decode   bytes -> RGB pixels (jpeg: which JPEGs are plain)
    resize   RGB pixels -> a square of every size
    order    which sample becomes which row
    store    the folder on disk: recipe, plans, shards, commits, table
    ingest   the Dask graph that fills it

Nothing in here prints, and nothing in here knows `workflows` or `cluster`.
"""
