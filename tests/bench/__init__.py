"""Benches: they print figures beside references of the same run, and assert nothing about time."""
