"""What a person can be told of a cluster in one sentence, without a traceback."""


class ClusterError(Exception):
    """The cluster cannot do what was asked of it."""


class CertificateError(ClusterError, ValueError):
    """Certificates are missing, too old, or not to be used so."""


class FinalError(ClusterError):
    """An error of a rank that every further generation would meet again, as a whole sentence."""


class RankError(ClusterError):
    """A rank has failed.

    Attributes:
        killed: Whether a signal ended it.
        final: Whether another generation would fail alike: the text is then a whole sentence.
        tail: The last lines that the rank wrote, which a traceback shows as a note.
    """

    def __init__(
        self, text: str, *, killed: bool = False, final: bool = False, tail: str = ""
    ) -> None:
        """Keep the text, which is one line, apart from what the rank wrote."""
        super().__init__(text)
        self.killed = killed
        self.final = final
        self.tail = tail
        if tail:
            self.add_note(tail)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle it whole: it comes from a worker."""
        return _rank_error, (str(self), self.killed, self.final, self.tail)


def _rank_error(text: str, killed: bool, final: bool, tail: str) -> RankError:
    return RankError(text, killed=killed, final=final, tail=tail)
