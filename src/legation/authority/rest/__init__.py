"""The operators' REST interface, version 1."""
