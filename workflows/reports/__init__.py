"""What a store holds and how fast it is read, as terminal lines and self-contained HTML pages."""
