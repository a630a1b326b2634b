"""Features of a whole store, row for row: computed once by a network, shard by shard, and read.

The modules that compute and verify rows serve all rows that a network derives from a store's images
(`pipeline.store.derived`): features, and upscaled images, whose network `workflows.superres` opens.

worker      the arguments of tasks, and the network that a worker opens and checks for them
shard_task  one task: pixels -> network -> rows -> a commit, written last
batches     the pixels of a shard, checked and batched
encoded_batches
            the encoded rows of a shard, checked, batched and decoded
extract     a run: the recipe, the tasks of a split, and the record that it is complete
probes      compares the networks of two machines by their rows of two test images
reader      rows of finished features
loader      shuffled batches of features
verify      compares every file with its commit
"""
