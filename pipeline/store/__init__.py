"""The store: a folder, or an object-store prefix, that holds every size of a whole image set.

    layout     the name of every object in it
    document   JSON that knows when it was damaged
    recipe     what decides the pixels; plan: which samples, in which order; commit: what is whole
    objects    the one door for reading and writing, on a disk or an object store
    lease      one writer a split
    shard      image rows -> one shard object, byte for byte as zarr would write it
    arrays     the door to zarr: metadata, labels, status
    table      one line a sample: what it was, and what became of it

`docs/format.md` describes the same for someone who reads a store without this code.
"""
