"""Exact evaluation: the integer arithmetic of the device, in float32 convolutions."""
