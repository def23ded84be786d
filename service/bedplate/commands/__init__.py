"""What an operator or an author types: `bedplate …`."""
