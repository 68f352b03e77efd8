"""Tests of the whole: a StreamCache over real directories, and the real daemon."""
