"""Copy a folder, such as a store, an export or a run, to a URL, where `tesserae pull` finds it.

Any URL of fsspec will do: s3://, gs://, sftp:// and others, with the package that implements it and
its own settings. hf://datasets/OWNER/NAME is a repository of the hub of Hugging Face, which is
created, private, if it is missing. Every file is named in a manifest with its SHA-256, which is
written last. Run the same command again to resume, or after a change: files that are there are not
copied again. Nothing is removed at the URL.
"""

from workflows.commands import Command
from workflows.transfer.options import PushOptions

COMMAND = Command((PushOptions,), "workflows.transfer.push:run_push")
