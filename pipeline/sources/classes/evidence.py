"""The evidence of a listing: what tells the class of its samples, and which files are no samples.

It is counted while a source is listed, travels in the metadata of the listing's schema, and is what
`combine_classes` checks.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.sources.classes.class_names import UNLABELLED

METADATA = b"tesserae classes"
"""The key of the metadata of a listing's schema that holds the `Evidence`, as JSON."""


class ClassBasis(NamedTuple):
    """The basis of a sample's class: what tells it."""

    kind: str
    """The kind: `number`, `name`, `folder`, `file name`, `table`, `none` or `unsaid`."""
    value: int | str | None = None
    """The label as it was read; None where no label tells the class."""
    folder: str = ""
    """The folders of the path, where the last of them is the class."""
    text: str = ""
    """The text of a number that no table counts and that is written unusually: `01`, `1.0`."""


@dataclass
class SampleGroup:
    """A group of samples of one class on one basis."""

    first: str
    """The key of one of the samples; of skipped files, the name of the first."""
    count: int = 0
    """The number of samples, or of skipped files."""


@dataclass
class Evidence:
    """The evidence of a listing: what its samples tell of their classes, and what is no sample."""

    groups: dict[tuple[str, ClassBasis], SampleGroup] = field(default_factory=dict)
    """The samples of each (class, basis); count 0 for a class that a source only names."""
    skipped: dict[str, SampleGroup] = field(default_factory=dict)
    """The files that are no samples, by reason."""
    notes: list[str] = field(default_factory=list)
    """The further remarks on the listing, a sentence each."""

    def add(self, key: str, basis: ClassBasis) -> None:
        """Count one sample, in the group of its class and basis.

        Args:
            key: Its key, `<class>/<file name>`; the first one of a group is kept as its example.
            basis: The `ClassBasis` of its class, what tells it, such as `ClassBasis("folder")`.
        """
        group = (key.partition("/")[0], basis)
        seen = self.groups.get(group)
        if seen is None:
            seen = self.groups[group] = SampleGroup(key)
        seen.count += 1

    def add_class(self, name: str, basis: ClassBasis, count: int, first: str = "") -> None:
        """Count several samples of one class, in addition to those counted before.

        Args:
            name: The class, as in keys.
            basis: The `ClassBasis` of the class, what tells it, such as `ClassBasis("folder")`.
            count: The number of samples, which may be 0 for a class that a source only names.
            first: The key of one of the samples, kept as an example if there is none yet (default:
                '', for no example).
        """
        seen = self.groups.setdefault((name, basis), SampleGroup(first))
        seen.first = seen.first or first
        seen.count += count

    def skip(self, reason: str, name: str, count: int = 1) -> None:
        """Count files or folders that are no samples, in addition to those counted before.

        Args:
            reason: Why they are skipped, in words, such as 'hidden by a dot'; those of one text are
                counted together.
            name: The name of one of them; the first one of a reason is kept as its example.
            count: Their number (default: 1).
        """
        self.skipped.setdefault(reason, SampleGroup(name)).count += count

    def merge(self, evidence: "Evidence") -> None:
        """Add the evidence of another part of the source to this one, in place.

        Counts are added up, and notes that are here already are not repeated.

        Args:
            evidence: The evidence to add, which is not changed.
        """
        for (name, basis), seen in evidence.groups.items():
            self.add_class(name, basis, seen.count, seen.first)
        for why, seen in evidence.skipped.items():
            self.skip(why, seen.first, seen.count)
        self.notes += [note for note in evidence.notes if note not in self.notes]

    def encode(self) -> dict[bytes, bytes]:
        """Return the evidence as metadata of a listing's schema."""
        seen = [[name, *basis, s.first, s.count] for (name, basis), s in self.groups.items()]
        passed = {why: [s.first, s.count] for why, s in self.skipped.items()}
        fields = {"seen": seen, "passed": passed, "notes": self.notes}
        return {METADATA: json.dumps(fields).encode()}

    @classmethod
    def decode(cls, metadata: Mapping[bytes, bytes] | None) -> "Evidence":
        """Return the evidence that `encode` wrote; empty evidence for a listing without any.

        Args:
            metadata: The metadata of the schema of a listing's Arrow table, of which the entry
                `b"tesserae classes"` is read; None if it has none.
        """
        text = (metadata or {}).get(METADATA)
        evidence = cls()
        if text is None:
            return evidence
        fields = json.loads(text)
        for name, *basis, first, count in fields["seen"]:
            evidence.groups[name, ClassBasis(*basis)] = SampleGroup(first, count)
        for why, (first, count) in fields["passed"].items():
            evidence.skipped[why] = SampleGroup(first, count)
        evidence.notes = fields["notes"]
        return evidence

    def items(self) -> Iterator[tuple[str, ClassBasis, SampleGroup]]:
        """Yield (class, basis, samples) of all groups."""
        for (name, basis), seen in self.groups.items():
            yield name, basis, seen

    def labelled_items(self) -> Iterator[tuple[str, ClassBasis, SampleGroup]]:
        """Yield (class, basis, samples) of the groups whose samples have a class."""
        return (item for item in self.items() if item[0] != UNLABELLED)
