"""The connections to the authority, and what comes over them."""
