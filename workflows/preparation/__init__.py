"""Preparation, verification and repair of stores and of their features, on a cluster.

prepare    `tesserae prepare`        plans      the splits before their first shard
verify     `tesserae verify`         spooling   sources that can only be streamed
repair     `tesserae repair`         features   `tesserae features`
options    the options of these commands
"""
