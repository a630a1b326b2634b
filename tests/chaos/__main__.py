"""Prepare stores over several hosts for minutes under many faults, and compare every byte.

The hosts are network namespaces of this machine: a scheduler, workers and a client. The store is on
a file system of its own, on a loop device. First a store is prepared without faults. Then the same
store is prepared again and again while processes are killed and suspended, links are cut, source
and disk fail and stall, and the disk is full. A command that ends with an error message is run
again, as a user would. Each store must finally have the bytes of the first. A command that ends
without an error message, leaves a process or hangs is a failure. When the time is over, no further
fault begins, and the last store must be finished. Needs root, iproute2 and e2fsprogs.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.ground import why_not
from tests.chaos.play import Account, Broken, Plan, note, play


def main() -> int:
    """Run the test and print a report; return 1 for a defect, 2 if this machine cannot run it."""
    parser = argparse.ArgumentParser(
        prog="make chaos", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=600.0, help="of chaos (600)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the faults (now)")
    parser.add_argument("--images", type=int, default=9_600, help="of each store (9600)")
    parser.add_argument("--workers", type=int, default=3, help="hosts that work (3)")
    parser.add_argument("--pace", type=float, default=1.0, help="of the faults (1)")
    parser.add_argument("--scratch", type=Path, help="where all of it is")
    args = parser.parse_args()
    if (why := why_not()) is not None:
        note(why)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was made is unmade
    folder = Path(tempfile.mkdtemp(prefix="chaos-", dir=args.scratch))
    plan = Plan(
        folder=folder,
        seconds=args.seconds,
        seed=args.seed,
        images=args.images,
        workers=args.workers,
        pace=args.pace,
    )
    note(f"seed {plan.seed}")
    try:
        say(plan, play(plan))
    except Broken as e:
        note(f"{e}\nseed {plan.seed}; what the processes said is in {folder}")
        return 1
    except KeyboardInterrupt:
        note("stopped: nothing was shown")
        shutil.rmtree(folder)
        return 130
    shutil.rmtree(folder)
    return 0


def say(plan: Plan, account: Account) -> None:
    """Print the report of a run."""
    print(
        f"{account.seconds:.0f} s, seed {plan.seed}, {plan.workers} hosts that work:"
        f" {account.stores} stores of {plan.images:,} images, each byte for byte that of a run that"
        " nothing happened to"
    )
    for name, count in account.faults.items():
        lasted = account.lasted.get(name)
        print(f"  {count:6,}  {name}{f', for {lasted:.0f} s in all' if lasted else ''}")
    for name, count in account.struck.items():
        print(f"  {count:6,}  {name}")
    print("Commands that ended:")
    for name, count in account.ends.most_common():
        print(f"  {count:6,}  {name}")
    for sentence, count in account.sentences.most_common():
        print(f"          {count} x {sentence}")
    print(f"Longest time without a shard: {account.longest:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
