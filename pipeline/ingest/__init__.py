"""The ingest graph: from a source to a finished split.

rows       which sample each row is, where every worker can look it up
planning   recipe, plan, labels and metadata, before the first picture is read
shard      what one task does: read, decode once, resize to every size, write, commit
watchdog   ends a worker that a picture has hung
graph      the Dask tasks: submitted, retried, isolated
finish     status, table and the record that all is there
check      what is damaged; mend: bringing just that back
"""
