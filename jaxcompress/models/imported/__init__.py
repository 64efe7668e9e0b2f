"""Networks of Flax, NNX, Haiku, Equinox, or plain JAX, as networks of leaf ops."""
