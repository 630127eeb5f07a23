"""What goes wrong in a step: numbers that are not finite, memory that runs out; and where it began."""
