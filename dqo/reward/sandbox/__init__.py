"""What runs in the sandbox for rewards: users' functions, comparisons of answers to maths. Imports no torch."""
