"""Ingest: from a source to a finished split.

source_index   the sample of each row, in a file that every worker can read
planning       recipe, plan, labels and metadata, before the first image is read
worker         the arguments of tasks, and what a worker opens and checks before its first one
shard_task     one task: read, decode once, resize to every size, write, commit
render         from the bytes of an image to its squares and its line of the table
report         the counts, bytes and seconds of a task
readahead      reads images while earlier ones are decoded
watchdog       ends a worker whose decoder hangs
shard_jobs     the Dask tasks, one for each shard
finish         status, table and the record that the split is complete
verify         compares every object with its record
restore        restores damaged objects
recheck        decodes rows again and compares them with the store
"""
