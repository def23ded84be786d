"""Answers that were given before, and computations under way."""
