"""Random changes of training images: pure functions of a key and a batch, inside the jitted step.

Each transform is a frozen, hashable dataclass, called as ``(rng, batch) -> batch``;
:func:`~jaxcompress.data.compose` puts them one after another. ``image`` is (batch, height, width,
channels) with pixels of 0 to 255, uint8 or float, before the networks' preprocessing.
"""
