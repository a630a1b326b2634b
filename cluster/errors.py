"""Errors of a cluster, whose messages are sentences for the user, shown without a traceback."""


class ClusterError(Exception):
    """An operation of a cluster failed."""


class CertificateError(ClusterError, ValueError):
    """Certificates are missing, expired, not trusted, or unsafe to use."""


class PermanentError(ClusterError):
    """An error of a rank that recurs in every further generation; its message is a sentence."""


class TrainingRankError(ClusterError):
    """A rank of a training world failed.

    Attributes:
        killed: True if a signal ended the process.
        permanent: True if another generation would fail in the same way; the message is then a
            sentence for the user.
        tail: The last lines of the rank's output, which a traceback shows as a note.
    """

    def __init__(
        self, text: str, *, killed: bool = False, permanent: bool = False, tail: str = ""
    ) -> None:
        """Store the message, which is one line, separately from the rank's output."""
        super().__init__(text)
        self.killed = killed
        self.permanent = permanent
        self.tail = tail
        if tail:
            self.add_note(tail)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle all attributes, since the error is raised on a worker."""
        return _unpickle_rank_error, (str(self), self.killed, self.permanent, self.tail)


def _unpickle_rank_error(text: str, killed: bool, permanent: bool, tail: str) -> TrainingRankError:
    return TrainingRankError(text, killed=killed, permanent=permanent, tail=tail)
