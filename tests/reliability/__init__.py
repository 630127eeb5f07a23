"""Faults and bad input: what must happen, row by row of the fault matrix."""
