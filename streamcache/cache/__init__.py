"""Objects, partials and sessions. Knows nothing of HTTP or of client sockets."""
