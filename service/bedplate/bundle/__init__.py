"""What a model brings: its description, its signature, what goes in and what comes out."""
