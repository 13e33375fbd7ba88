"""What is revoked, and the lists that say so."""
