"""Mutual TLS in the libraries that services are made of. Each module imports one of them."""
