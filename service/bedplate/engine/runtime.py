"""onnxruntime, which is told to keep to itself before it is loaded. Nobody imports it from elsewhere.

Its builds for Linux report each process and each model to their maker (1.29 and later), and keep an identifier of the
machine in the user's home. What it reads once at the start turns that off; its own function to do so comes too late.
"""

from __future__ import annotations

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime

__all__ = ["onnxruntime"]
