"""Where the steps of a completion begin and end."""
