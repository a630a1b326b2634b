"""Parallel decoding: which library, how many threads or processes, and what the lock costs.

options       the options of `tesserae study parallel`
measured      the program that decodes by one method; any interpreter can run it
arms          the methods that are compared
environments  environments with another Pillow, and free-threaded interpreters
programs      programs whose processes all end with the command
images        the files that are decoded
lock          the share of time in which the interpreter's lock is held
command       the study: its rounds, tables, figures and answers
"""
