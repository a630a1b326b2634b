"""Small experiments on what papers claim, from data that every machine has."""
