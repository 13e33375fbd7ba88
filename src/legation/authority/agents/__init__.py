"""What agents ask and are told, and what they say is in force."""
