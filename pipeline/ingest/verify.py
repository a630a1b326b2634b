"""Verification: compares every object of a store with the record of it.

Nothing is trusted but digests. A document carries its own, and so does the ledger, the second copy
of the documents; done.json has those of labels, status, table and metadata; a commit has those of
its shard objects and its part of the table. So one damaged object is always named, by a record
that is intact.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pipeline.errors import InvalidDocumentError, StoreDamagedError
from pipeline.store import commit, document, layout, plan, recipe, records
from pipeline.store.commit import Commit, ObjectRecord
from pipeline.store.encoded_plan import EncodedPlan, EncodedPlans, decode_encoded_plan
from pipeline.store.encoding import is_array_name
from pipeline.store.fingerprint import fingerprint
from pipeline.store.integrity import Problem, check_object
from pipeline.store.ledger import read_ledger
from pipeline.store.objects import Objects
from pipeline.store.plan import Plan
from pipeline.store.recipe import Recipe
from pipeline.store.records import FinishRecord

CANNOT_BE_READ = "cannot be read"
"""The beginning of the description of a document for which the disk reports an error."""


@dataclass(frozen=True, kw_only=True)
class SplitRecords:
    """A split as far as its records can be read, from themselves or from the ledger."""

    split: str
    """The name of the split."""
    recipe: Recipe | None
    """The recipe of the store; None if neither it nor a copy can be read."""
    plan: Plan | None
    """The plan; None if neither it nor a copy can be read."""
    done: FinishRecord | None
    """The finish record; None if it is not written yet or damaged."""
    encoded_plans: EncodedPlans
    """The readable plans of encoded arrays, or their copies, by name of the array."""
    commits: dict[int, Commit]
    """The readable commits, or their copies, by number of the shard."""
    problems: tuple[Problem, ...]
    """The documents that are damaged, or missing although they must exist."""

    @property
    def objects(self) -> list[ObjectRecord]:
        """Every object that some record lists."""
        finished = () if self.done is None else self.done.objects
        return [*finished, *(written for c in self.commits.values() for written in c.objects)]


def read_records(objects: Objects, split: str) -> SplitRecords:
    """Read the records of a split, with the copies in its ledger where they are damaged.

    The ledger is the file `splits/<split>.ledger.jsonl`.

    Args:
        objects: The objects of the store.
        split: The name of the split.

    Returns:
        `recipe`, `plan` and the finish record `done`, each None if neither it nor a copy can be
        read (there is no copy of a finish record); `encoded_plans` by name of the array and
        `commits` by number of the shard, empty dicts without a plan; and in `problems` each
        document that is damaged, or missing although it must exist, which recipe, plan and ledger
        must: an unknown split is no error. A finish record or commit that is not written yet is no
        problem.

    Raises:
        StoreError: A document has a format that this version does not read, or the request to an
            object store failed.
        OSError: The disk reports an error while the ledger is read.
    """
    ledger = read_ledger(objects, split)
    reader = _RecordReader(objects, ledger.copies)
    if ledger.damage is not None:
        reader.problems.append(Problem(layout.ledger(split), ledger.damage))
    split_plan = reader.plan(split)
    done = reader.done(split, split_plan)
    commits = {} if split_plan is None else reader.commits(split_plan, expected=done is not None)
    return SplitRecords(
        split=split,
        recipe=reader.recipe(split_plan),
        plan=split_plan,
        done=done,
        encoded_plans={} if split_plan is None else reader.encoded_plans(split_plan, done, commits),
        commits=commits,
        problems=tuple(reader.problems),
    )


class _RecordReader:
    """Reads documents and collects the problems with them."""

    def __init__(self, objects: Objects, copies: dict[str, bytes]) -> None:
        self.problems: list[Problem] = []
        self._objects = objects
        self._copies = copies

    def plan(self, split: str) -> Plan | None:
        """Return the plan of a split if it, or the ledger's copy of it, is intact."""
        name = layout.plan(split)
        copy = self._copy(name, plan.decode_plan, lambda decoded: decoded.split == split)
        decoded: Plan | None = self._read(
            name,
            plan.decode_plan,
            lambda decoded: decoded.split == split and copy in (None, decoded),
        )
        return decoded

    def recipe(self, planned: Plan | None) -> Recipe | None:
        """Return the recipe to which *planned* belongs if it, or a ledger's copy, is intact."""

        def fits(decoded: Recipe) -> bool:
            return planned is None or decoded.digest == planned.recipe

        has_recipe = layout.RECIPE in self._copies
        for split in () if has_recipe else records.stored_splits(self._objects):
            self._copies |= read_ledger(self._objects, split).copies
        decoded: Recipe | None = self._read(layout.RECIPE, recipe.decode_recipe, fits)
        return decoded

    def done(self, split: str, planned: Plan | None) -> FinishRecord | None:
        """Return the record of the finish step if it exists, is intact and belongs to this plan."""

        def fits(decoded: FinishRecord) -> bool:
            identity = decoded.split, decoded.plan, decoded.num_rows
            return planned is None or identity == (split, planned.digest, planned.num_rows)

        shards = range(planned.num_shards if planned else 0)
        # The finish step copies every commit before it writes its own record.
        finished = planned is not None and all(
            layout.commit(split, shard) in self._copies for shard in shards
        )
        decoded: FinishRecord | None = self._read(
            layout.done(split), records.decode_finish_record, fits, expected=finished
        )
        return decoded

    def encoded_plans(
        self, planned: Plan, done: FinishRecord | None, commits: dict[int, Commit]
    ) -> EncodedPlans:
        """Return the plans of encoded arrays, intact or copied, that belong to *planned*."""
        split = planned.split
        copies = (layout.encoding_of_plan(split, name) for name in self._copies)
        names = {
            *records.planned_encodings(self._objects, split),
            *(name for name in copies if name is not None),
            *(() if done is None else done.encoded),
            *(name for committed in commits.values() for name in committed.encoded),
        }

        def read(encoding: str) -> EncodedPlan | None:
            """Return the plan of one array, or its copy, if it belongs to *planned*."""
            identity = records.encoded_plan_identity(planned, encoding)

            def belongs(decoded: EncodedPlan) -> bool:
                return all(getattr(decoded, key) == value for key, value in identity.items())

            name = layout.encoded_plan(split, encoding)
            copy = self._copy(name, decode_encoded_plan, belongs)
            decoded: EncodedPlan | None = self._read(
                name,
                decode_encoded_plan,
                lambda decoded: belongs(decoded) and copy in (None, decoded),
            )
            return decoded

        plans = {name: read(name) for name in sorted(names) if is_array_name(name)}
        return {name: decoded for name, decoded in plans.items() if decoded is not None}

    def commits(self, planned: Plan, *, expected: bool) -> dict[int, Commit]:
        """Return the intact commits of *planned*, by shard; *expected*: all of them must exist."""

        def read(shard: int) -> Commit | None:
            name = layout.commit(planned.split, shard)
            fits = functools.partial(_is_commit_of_shard, planned, shard)
            must_exist = expected or name in self._copies
            decoded: Commit | None = self._read(
                name, commit.decode_commit, fits, expected=must_exist
            )
            return decoded

        with ThreadPoolExecutor(records.READERS) as pool:
            commits = pool.map(read, range(planned.num_shards))
            return {decoded.shard: decoded for decoded in commits if decoded is not None}

    def _read(
        self,
        name: str,
        decode: Callable[[bytes, str], Any],
        fits: Callable[[Any], bool],
        *,
        expected: bool = True,
    ) -> Any:
        reason = "missing" if expected else ""
        try:
            decoded = decode(self._objects.get(name, document.MAX_BYTES), name)
            if fits(decoded):
                return decoded
            reason = "belongs to another store, plan or shard"
        except FileNotFoundError:
            pass
        except StoreDamagedError as e:
            reason = _damage_text(e)
        except OSError as e:
            reason = f"{CANNOT_BE_READ}: {e.strerror or e}"
        if reason:
            self.problems.append(Problem(name, reason))
        return self._copy(name, decode, fits)

    def _copy(
        self, name: str, decode: Callable[[bytes, str], Any], fits: Callable[[Any], bool]
    ) -> Any:
        # In a damaged ledger the name of a copy may be damaged, so the copy is checked like a file.
        try:
            decoded = decode(self._copies[name], name)
        except (KeyError, StoreDamagedError):
            return None
        return decoded if fits(decoded) else None


def _is_commit_of_shard(planned: Plan, shard: int, commit_record: Commit) -> bool:
    return commit_record.shard == shard and records.belongs(planned, commit_record)


def _damage_text(error: StoreDamagedError) -> str:
    return f"damaged: {error.problem}" if isinstance(error, InvalidDocumentError) else "damaged"


def check_finished(split_records: SplitRecords) -> list[Problem]:
    """Return what keeps a split from being finished, as its records tell; no object is read.

    Args:
        split_records: The records of the split, as `read_records` returns them.

    Returns:
        Problems whose `unfinished` is True, with the `name` of a document or array in the store and
        a `description` in words: a single one for missing commits or a missing finish record;
        otherwise one for each image array that is not finished. The list is empty if the split is
        finished, if its plan cannot be read, or if its damaged finish record is already among the
        problems of *split_records*.
    """
    if split_records.plan is None:
        return []
    num_shards = split_records.plan.num_shards
    missing = num_shards - len(split_records.commits)
    if missing:
        reason = f"not finished: {missing} of {num_shards} shards are not committed"
        return [Problem(layout.plan(split_records.split), reason)]
    done = layout.done(split_records.split)
    if split_records.done is None:
        reported = any(problem.name == done for problem in split_records.problems)
        return [] if reported else [Problem(done, "not finished: the finish step has not run")]
    return [*_unfinished_arrays(split_records, split_records.done)]


def _unfinished_arrays(split_records: SplitRecords, done: FinishRecord) -> Iterator[Problem]:
    commits = split_records.commits.values()
    for array in sort_arrays([*done.array_names, *committed_arrays(split_records)]):
        name = layout.array(split_records.split, array)
        rows = f"at {array} px" if array.isdecimal() else "with these rows"
        missing = sum(array not in commit.shard_objects for commit in commits)
        if missing:
            reason = f"{missing} of {len(commits)} shards are not committed {rows}"
            yield Problem(name, f"not finished: {reason}")
        elif array not in done.array_names:
            yield Problem(name, f"not finished: the finish step has not run {rows}")


def committed_arrays(split_records: SplitRecords) -> list[str]:
    """Return the names of the image arrays that any commit of a split has, in their order.

    Args:
        split_records: The records of the split, as `read_records` returns them; without commits the
            result is empty.

    Returns:
        Sizes as text, such as `224`, ascending; then the names of encoded arrays, such as
        `jpeg256@90`.
    """
    commits = split_records.commits.values()
    return sort_arrays(name for commit in commits for name in commit.shard_objects)


def sort_arrays(names: Iterable[str]) -> list[str]:
    """Return the names of image arrays in their order: sizes, ascending, then encoded arrays.

    Args:
        names: The names, such as `224` or `jpeg256@90`; repetitions are ignored.
    """
    return sorted(set(names), key=lambda name: (not name.isdecimal(), len(name), name))


def check_planned(objects: Objects, split_records: SplitRecords) -> list[Problem]:
    """Check the zarr metadata and labels of a split that no finish record lists yet.

    Args:
        objects: The objects of the store.
        split_records: The records of the split, as `read_records` returns them.

    Returns:
        A problem, with the `name` of the object and a `description` such as `missing`, for each
        `zarr.json` and, if there is no finish record, each chunk of labels that is missing or
        damaged; an empty list also if the recipe or the plan cannot be read, because then nothing
        is checked.

    Raises:
        StoreError: The request to an object store failed.
        OSError: The disk reports an error.
    """
    if split_records.recipe is None or split_records.plan is None:
        return []
    # Imported late: reading records alone needs no zarr.
    from pipeline.ingest.finish import zarr_metadata
    from pipeline.store import arrays

    recorded_names = (
        set()
        if split_records.done is None
        else {written.name for written in split_records.done.objects}
    )
    committed = committed_arrays(split_records)
    documents = zarr_metadata(
        split_records.recipe,
        split_records.plan,
        [int(name) for name in committed if name.isdecimal()],
        {name: p for name, p in split_records.encoded_plans.items() if name in committed},
    )
    planned = [fingerprint(name, data) for name, data in documents if name not in recorded_names]
    problems = [check_object(objects, written) for written in planned]
    if split_records.done is None:
        problems += [
            Problem(*problem_fields)
            for problem_fields in arrays.damaged_labels(objects, split_records.plan)
        ]
    return [problem for problem in problems if problem is not None]


def unknown_objects(objects: Objects, split_records: SplitRecords) -> list[str]:
    """Return the objects in a finished split's folders that no record names. They do no harm.

    Args:
        objects: The objects of the store.
        split_records: The records of the split, as `read_records` returns them.

    Returns:
        Their names relative to the store, in the folders of arrays, commits and table parts; an
        empty list if *split_records* has no finish record. Objects of a shard whose commit is lost
        are among them.

    Raises:
        StoreError: The request to an object store failed.
    """
    if split_records.done is None:
        return []
    known_names = {written.name for written in split_records.objects}
    known_names |= {layout.commit(split_records.split, shard) for shard in split_records.commits}
    folders = (
        f"{layout.IMAGES}/{split_records.split}",
        layout.commits(split_records.split),
        layout.parts(split_records.split),
    )
    return [name for folder in folders for name in objects.names(folder) if name not in known_names]
