"""Quantizers: named groups of pure functions, for weights and for activations."""
