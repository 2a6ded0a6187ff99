"""Several trainings as one experiment: which runs there are, and what they say together."""
