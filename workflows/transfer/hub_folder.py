"""A folder in a repository of the hub of Hugging Face, where many files become one commit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import TesseraeError
from pipeline.installation import install_advice
from workflows.transfer.remote_folder import RemoteFolder


class HubFolder(RemoteFolder):
    """The files below a URL such as `hf://datasets/me/imagenet` or `hf://me/classifier`.

    A repository that does not exist is created by the first upload, and is private. The token is
    that of `hf auth login`, or HF_TOKEN.
    """

    files_at_once = 100

    def __init__(self, url: str) -> None:
        """Open the file system of the hub; nothing is requested.

        Args:
            url: The URL, with the kind of the repository (`datasets/`, none for a model), its owner
                and its name, and a folder in it, if any. A revision is `me/imagenet@revision`.

        Raises:
            TesseraeError: The package of the hub is not installed, or the URL is not valid.
        """
        try:
            import huggingface_hub
        except ImportError as e:
            raise TesseraeError(f"hf:// needs huggingface_hub: {install_advice('train')}.") from e
        super().__init__(url)
        kind, _, rest = self._root.partition("/")
        kinds = {"datasets": "dataset", "spaces": "space"}
        self._kind = kinds.get(kind, "model")
        parts = (rest if kind in kinds else self._root).split("/")
        if len(parts) < 2 or not all(parts[:2]):
            raise TesseraeError(
                f"{url} names no repository: expected hf://datasets/OWNER/NAME, or hf://OWNER/NAME"
                " for a model."
            )
        name, _, revision = parts[1].partition("@")
        self._repository = f"{parts[0]}/{name}"
        self._revision = revision or None
        self._prefix = "/".join(parts[2:])
        self._hub = huggingface_hub
        self._api = huggingface_hub.HfApi()

    def write(self, name: str, data: bytes) -> None:
        """Write a small file with a commit of its own, and replace one of this name."""
        self._commit([(data, name)])

    def remove(self, name: str) -> None:
        """Remove a file with a commit of its own; one that is not there is not an error."""
        if self.num_bytes(name) is None:
            return
        path = f"{self._prefix}/{name}".lstrip("/")
        operations = [self._hub.CommitOperationDelete(path_in_repo=path)]
        self._try(f"remove {name} of", lambda: self._send(operations, f"Remove {name}"))

    def upload(self, files: Sequence[tuple[Path, str]]) -> None:
        """Upload files with one commit, and replace those of these names.

        Args:
            files: The path of each file on this machine, and its name relative to the folder.

        Raises:
            TesseraeError: The request failed, or a file has another length there afterwards.
        """
        self._commit([(str(file), name) for file, name in files])
        for file, name in files:
            self._check_length(file, name)

    def num_bytes(self, name: str) -> int | None:
        """Return the length of a file; None if there is none of this name."""
        self._files.invalidate_cache()  # of listings before the last commit
        return super().num_bytes(name)

    def _commit(self, contents: Sequence[tuple[str | bytes, str]]) -> None:
        operations = [
            self._hub.CommitOperationAdd(
                path_in_repo=f"{self._prefix}/{name}".lstrip("/"), path_or_fileobj=content
            )
            for content, name in contents
        ]

        def commit() -> None:
            self._api.create_repo(
                self._repository, repo_type=self._kind, private=True, exist_ok=True
            )
            self._send(operations, f"Push {len(contents)} files")

        self._try(f"write {contents[0][1]} to", commit)

    def _send(self, operations: Sequence[Any], message: str) -> None:
        self._api.create_commit(
            self._repository,
            operations,
            repo_type=self._kind,
            revision=self._revision,
            commit_message=message,
        )
