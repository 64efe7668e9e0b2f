"""Keeps pytest from importing the generator, which needs PyTorch."""

collect_ignore = ["generate.py"]
