"""`python -m rlpost.cli`."""

from rlpost.cli import main

main()
