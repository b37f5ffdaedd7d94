"""Numbers of a group, a step or an evaluation; pure functions, apart from the clock."""
