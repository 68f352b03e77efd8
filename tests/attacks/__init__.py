"""What attackers and broken clients do to a daemon, each in a process of its own."""
