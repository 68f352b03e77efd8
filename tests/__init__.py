"""The tests; a package, so that a directory such as ``tests/http`` hides no standard module."""
