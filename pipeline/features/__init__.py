"""What a network makes of a whole store, row for row: made once, shard by shard, and read again.

task     one shard: pixels -> network -> features -> a commit, last
making   which network and transform, the tasks of a split, the record that it is whole
reading  rows of finished features
check    every file against what was committed
"""
