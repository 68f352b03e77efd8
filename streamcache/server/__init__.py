"""Sockets and greenlets: connections, requests, responses."""
