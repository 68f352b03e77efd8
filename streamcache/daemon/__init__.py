"""What only the daemon does: signals, limits of the process, the ready line."""
