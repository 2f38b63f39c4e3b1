"""Runs seen from outside: which there are, how they stand, what they say, and asking one to stop."""
