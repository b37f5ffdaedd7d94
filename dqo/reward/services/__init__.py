"""What the rewards need that ask a service."""
