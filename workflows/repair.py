"""Bring damaged or missing files of a store back, and touch nothing else.

Records come from their second copy, parts of the table from the table, pixels from the source,
whose bytes must still have the checksums that were recorded. Exit status 0: the store is whole.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from cluster.local import cores
from pipeline.errors import TesseraeError
from pipeline.ingest import check, mend, planning
from pipeline.ingest.check import Found, Problem
from pipeline.ingest.finish import finish_split
from pipeline.ingest.graph import Failed, run_jobs
from pipeline.ingest.shard import Work
from pipeline.store.lease import lease
from pipeline.store.objects import Objects, open_objects
from workflows.clusters import Cluster
from workflows.verify import chosen_splits, verify_split


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The words of `tesserae repair`."""
    parser.add_argument("store", metavar="STORE", help="folder or URL of the store")
    parser.add_argument("--split", nargs="+", help="splits to repair (all)")
    parser.add_argument("--workers", type=int, help="processes (one a core)")
    parser.add_argument("--wait", action="store_true", help="wait for another run of the split")


def run(args: argparse.Namespace) -> int:
    """Repair what is damaged; 1 if anything is left."""
    left = 0
    workers = args.workers or cores()
    with Cluster(workers=workers, threads=1, dashboard=False) as cluster:
        for split in chosen_splits(open_objects(args.store), args.split):
            run_name = planning.new_run(split)
            objects = open_objects(args.store, run_name)
            with lease(objects, split, wait=args.wait):
                objects.begin()
                try:
                    left += repair_split(objects, split, run_name, cluster)
                finally:
                    objects.end()
    return 1 if left else 0


def repair_split(objects: Objects, split: str, run_name: str, cluster: Cluster) -> int:
    """Repair one split; returns how many problems are left."""
    found, problems = verify_split(objects, split)
    damaged = [problem for problem in problems if not problem.what.startswith("not finished")]
    if not damaged:
        for problem in problems:
            print(f"  {problem.name}: {problem.what}")
        return len(problems)
    for problem in damaged:
        print(f"  {problem.name}: {problem.what}")
    restored = mend.restore_records(objects, found)
    restored += mend.restore_parts(objects, found, damaged)
    restored += mend.drop_derived(objects, found, damaged)
    rest = [problem for problem in damaged if problem.name not in restored]
    _rebuild(objects, found, rest, run_name, cluster)
    if found.plan is not None and len(found.commits) == found.plan.num_shards:
        finish_split(objects.url, split, run_name)
    elif found.recipe is not None and found.plan is not None:
        planning.write_metadata(objects, found.recipe, found.plan, check.committed_sizes(found))
    _, left = verify_split(objects, split)
    for problem in left:
        print(f"  {problem.name}: {problem.what}")
    return len(left)


def _rebuild(
    objects: Objects, found: Found, rest: Sequence[Problem], run_name: str, cluster: Cluster
) -> None:
    rebuilds = mend.plan_rebuilds(found, rest)
    if not rebuilds:
        return
    work = Work(store=objects.url, split=found.split, run=run_name, sizes=())
    jobs = mend.rebuild_jobs(work, rebuilds)
    for result in run_jobs(cluster.client, run_name, jobs, tick=cluster.keep):
        if isinstance(result, Failed):
            raise TesseraeError(f"{result.job.name}: {result.error}")
        print(f"  made again: {', '.join(result.made)}")
