"""How fast a revocation is, with many enforcement points and many revoked certificates."""
