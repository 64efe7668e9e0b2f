"""Finds the operation whose integers a device computes otherwise, and the rule that explains them."""
