"""Real network file systems for tests."""
