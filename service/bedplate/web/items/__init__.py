"""Between what clients send and tensors: bodies to items, outputs to predictions."""
