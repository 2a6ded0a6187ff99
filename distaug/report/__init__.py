"""Numbers and pictures for the eye."""
