"""Where bytes come from. What touches the source runs in a worker thread (I1)."""
