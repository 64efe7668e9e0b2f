"""Analysis of the layers of a quantized network: their errors, and the bits that they need."""
