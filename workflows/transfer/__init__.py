"""`push` and `pull`: whole folders, such as stores, exports and runs, to a URL and back.

The manifest (`manifest`) names every file with its length and its SHA-256. It is written last, so
that a copy with a manifest is complete, and each file is compared with it after a download.
"""
