"""Which tensors of a model a freeze method freezes, and the proof that they did not move."""
