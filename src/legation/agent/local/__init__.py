"""What the agent serves on its own socket."""
