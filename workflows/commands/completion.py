"""Print a script with which a shell completes commands, options and their values after Tab.

    tesserae completion bash > ~/.local/share/bash-completion/completions/tesserae
    tesserae completion zsh > DIR/_tesserae          # DIR: a folder of $fpath
    tesserae completion fish > ~/.config/fish/completions/tesserae.fish

The shell reads it when it starts. A newer version of Tesserae needs a new script.
"""

from workflows.commands import Command
from workflows.setup.options import CompletionOptions

COMMAND = Command((CompletionOptions,), "workflows.completion:run_completion")
