"""Node attestation: how an agent proves who it is when it enrols."""
