"""The kinds of data sets that are read, one module each."""
