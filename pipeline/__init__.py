"""The data path, in the order the data flows.

    sources   list the images and read their bytes
    images    decode bytes to RGB pixels and resize them to squares
    order     assigns samples to rows, and rows to the positions of an epoch
    store     the folder on disk: recipe, plans, shards, commits, table
    ingest    the Dask graph that fills a store

Nothing in this package prints or imports `workflows` or `cluster`.
"""
