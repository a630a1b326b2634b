"""The Dask tasks of `prepare`: one for each shard of a split."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.ingest.shard_task import prepare_shard
from pipeline.ingest.worker import ShardTaskConfig
from pipeline.jobs import Job


def shard_jobs(config: ShardTaskConfig, shards: Iterable[int]) -> list[Job]:
    """Return the jobs that prepare *shards*, each with a sandboxed job as its fallback."""

    def job(shard: int) -> Job:
        name = f"prepare-{config.split}-{shard:06d}"
        isolated = Job(f"{name}-isolated", prepare_shard, (config, shard), {"isolated": True})
        return Job(name, prepare_shard, (config, shard), fallback=isolated)

    return [job(shard) for shard in shards]
