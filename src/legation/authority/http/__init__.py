"""Serving HTTP: listeners, TLS, bounded requests."""
