"""Legation: mutual-TLS identities that rotate by themselves and can be recalled at once."""

__version__ = "0.1.0"
