"""The Dask tasks of `prepare`: one for each shard of a split."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.ingest.shard_task import prepare_shard
from pipeline.ingest.worker import ShardTaskConfig
from pipeline.jobs import Job


def shard_jobs(config: ShardTaskConfig, shards: Iterable[int]) -> list[Job]:
    """Return one Dask job for each shard, with a job that decodes in a sandbox as its fallback.

    Nothing is run yet. The fallback replaces a job that has lost too many workers or run out of
    memory: the same task, which decodes image by image in a child and is named `<name>-isolated`.

    Args:
        config: The arguments that all tasks of the run share: a `ShardTaskConfig` with at least
            `store`, `split`, `run` and `arrays`.
        shards: The numbers of the shards to prepare, from 0.

    Returns:
        Jobs for `pipeline.jobs.run_jobs`, named `prepare-<split>-<shard>` with six digits for the
        shard, in the order of *shards*, that call `prepare_shard` and give its `ShardReport`.
    """

    def job(shard: int) -> Job:
        name = f"prepare-{config.split}-{shard:06d}"
        isolated = Job(f"{name}-isolated", prepare_shard, (config, shard), {"isolated": True})
        return Job(name, prepare_shard, (config, shard), fallback=isolated)

    return [job(shard) for shard in shards]
