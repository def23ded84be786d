"""Bundles: a model's description, its signature, its inputs and its outputs."""
