"""The classes of one split, as its samples and its source tell them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.sources.classes.class_table import ClassTable
from pipeline.sources.classes.evidence import Evidence


@dataclass(frozen=True)
class SplitClasses:
    """The classes of one split, as its samples and its source tell them."""

    evidence: Evidence
    """The evidence of its listing: `Evidence.decode` of the metadata of the listing's schema."""
    table: ClassTable | None = None
    """The classes that the source numbers; None: it numbers none."""
    words: Mapping[str, str] = field(default_factory=dict)
    """The words by class, such as {'n01440764': 'tench, Tinca tinca'}."""

    @property
    def names(self) -> set[str]:
        """The classes of its samples."""
        return {name for name, _, _ in self.evidence.labelled_items()}
