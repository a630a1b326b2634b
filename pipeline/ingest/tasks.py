"""The Dask tasks of `prepare`: one for each shard of a split."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.ingest.shard import prepare_shard
from pipeline.ingest.worker import Work
from pipeline.jobs import Job


def shard_jobs(work: Work, shards: Iterable[int]) -> list[Job]:
    """Return the jobs that prepare *shards*, each with a sandboxed job as its fallback."""

    def job(shard: int) -> Job:
        name = f"prepare-{work.split}-{shard:06d}"
        isolated = Job(f"{name}-isolated", prepare_shard, (work, shard), {"isolated": True})
        return Job(name, prepare_shard, (work, shard), isolated=isolated)

    return [job(shard) for shard in shards]
