"""Bedplate's inference service: `web` speaks HTTP, `engine` speaks tensors, and `wire` is all that they share."""

__version__ = "0.1.0"
