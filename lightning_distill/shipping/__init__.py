"""A trained student by itself: files that other programs read, and how it is read again."""
