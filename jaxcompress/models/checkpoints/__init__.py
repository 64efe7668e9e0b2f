"""Checkpoints of PyTorch models, and the way back."""
