"""Who may read what: networks, proxies, signed URLs, passwords. Pure decisions, no sockets."""
