"""The stage that enlarges images: its networks, losses, evaluation, and the use of its runs."""
