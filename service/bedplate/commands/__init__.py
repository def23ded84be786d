"""The command line: `bedplate …`."""
