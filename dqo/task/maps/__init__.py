"""World maps of answers that name places."""
