"""The response cache, and computations in flight."""
