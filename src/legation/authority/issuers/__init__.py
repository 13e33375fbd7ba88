"""Issuing CAs that come and go: prepared, published, active, retiring or tainted, removed."""
