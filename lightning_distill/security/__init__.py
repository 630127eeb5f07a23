"""What a config may name, what a file may hold, and what must not be written."""
