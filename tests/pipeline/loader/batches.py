"""The comparison of batches from several loaders."""

from __future__ import annotations

import torch

from pipeline.loader import Batch


def check_same(actual: list[Batch], expected: list[Batch]) -> None:
    """Assert that two loaders have returned the same batches in the same order."""
    assert len(actual) == len(expected)
    for ours, theirs in zip(actual, expected, strict=True):
        assert torch.equal(ours.rows, theirs.rows)
        assert torch.equal(ours.labels, theirs.labels)
        for image, expected_image in zip(ours.images, theirs.images, strict=True):
            assert torch.equal(image, expected_image)
