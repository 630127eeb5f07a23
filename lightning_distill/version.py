"""The version of the package, without the rest of it."""

__version__ = "0.1.0"
