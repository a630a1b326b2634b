"""What a command shows on a terminal, and the signals that stop it."""
