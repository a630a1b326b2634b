"""How good what was made is, by itself and beside what it was learned from."""
