"""Between HTTP and tensors: parses bodies to items, and turns outputs into predictions."""
