"""The sources of images: their detection, their listing, and the reading of their bytes.

    kinds        the registry; detection       source       the base of all kinds
    location     a folder, local or remote     content      kind of a file's bytes
    listing      the Arrow table of samples    remote       files behind fsspec, by byte range
    spool        records of streamed sources   reader       the bytes of one sample
    keys         names of samples and splits   options      options, and listing rules
    clutter      files that are no samples     duplicates   unique names for repeated ones
    text_tables  parsing of tables             nearby_tables  tables near the images
    imagenet_tables  words of wnids, classes of ILSVRC2012's val images
    split_files  the files of each split
    read_errors  errors with the file's name   numbered_files  gaps among numbered files
    classes/     labeller (the class of a sample), labels (values of labels), class_names (the
                 class in a key), class_table (numbered classes), evidence (what tells classes),
                 class_order (the classes of all splits), split_classes (those of one),
                 class_checks (ambiguous classes), name_tables, number_tables (files)
    formats/     the kinds: folder and folder_detection, flat, tiny_imagenet, ilsvrc, webdataset,
                 parquet and parquet_columns, cifar, lsun; val_folder_check (classes of val),
                 unsupported (data sets of other tools)
    archives/    detection, open, compression, tar, tar_header, zip; outline (the first members),
                 layout and folder_layout (members as samples), tar_source

`docs/sources.md` says for each kind how its samples get their keys.
"""

from pipeline.sources.kinds import (
    SOURCE_KINDS,
    check_split_name,
    open_source,
    source_splits,
    unlabelled_test_remark,
)

__all__ = [
    "SOURCE_KINDS",
    "check_split_name",
    "open_source",
    "source_splits",
    "unlabelled_test_remark",
]
