"""The store: a folder or object-store prefix that holds an image data set at every size.

    layout       the name of every object in it
    document     JSON documents that detect their own damage
    recipe       the settings that determine the pixels
    plan         the samples of a split and their order
    commit       the record that a shard is complete
    records      the reading of recipe, plans, commits and finish records
    ledger       a second copy of these documents, from which `repair` restores them
    fingerprint  size and digest of an object, as documents record them
    objects      the interface for reading and writing objects
    local        objects on a disk; `direct` reads them without the page cache
    remote       objects on an object store
    open         the choice between both for a path or URL
    lease        the lock that admits one writer for each split
    integrity    the comparison of objects with the records of them
    checksum     the checksums of chunks, indexes and small arrays
    shard        the composition of a shard object, byte for byte as zarr writes it
    codecs       the compression of chunks
    geometry     the places of rows in shard objects, for reading them one by one
    encoding, encoded_plan, encoded_shard  rows that are images of their own length
    encoded_rows  the places of such rows in the shards of a split, for reading them
    small_arrays  the arrays of one or two numbers for each row, read without zarr
    arrays       the interface to zarr: metadata, labels, status
    split        a split that is open for reading
    table        one line for each sample: its source file and the outcome of decoding it

`docs/format.md` describes the format for readers of a store that do not use this code.
"""
