"""Programs that people really use, against the real daemon on a slow source, always cold."""
