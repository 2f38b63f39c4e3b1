"""What runs inside a jail: standard library alone, for the rest of the package is not visible there."""
