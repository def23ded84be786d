"""Bedplate's inference service: `web` speaks HTTP, `engine` speaks tensors, `wire` is what they share."""

__version__ = "0.1.0"
