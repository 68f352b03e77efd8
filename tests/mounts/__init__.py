"""Real file systems for tests."""
