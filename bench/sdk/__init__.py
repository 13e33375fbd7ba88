"""What the SDK's TLS engines cost."""
