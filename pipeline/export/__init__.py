"""Files of other tools' formats that hold the rows of a store: Parquet and WebDataset.

A shard of the store is a file, which a task writes (`shard_task`). `rows` reads the rows with their
keys and classes, and `formats` writes them.
"""
