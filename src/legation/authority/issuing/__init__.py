"""Certificates on their way out."""
