"""Where a quantized network hurts, and how many bits each of its layers needs."""
