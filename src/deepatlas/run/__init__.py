"""A run: its folder on disk, its split, and training it from start or checkpoint to the end."""
