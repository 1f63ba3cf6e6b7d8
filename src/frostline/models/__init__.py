"""Models: loaded from a folder, taken apart into blocks, their heads, adapters and optimizers."""
