"""Random changes of training images: pure functions of a key and a batch, inside the jitted step.

Each transform is a frozen, hashable dataclass, called as ``(rng, batch) -> batch``; :func:`chain`
puts them one after another. ``image`` is (batch, height, width, channels) with pixels of 0 to 255,
uint8 or float, before the networks' preprocessing.
"""

from jaxcompress.data.augment.basic import Augment, random_flip, random_shift
from jaxcompress.data.augment.chain import Chain, chain
from jaxcompress.data.augment.color import ColorJitter
from jaxcompress.data.augment.crop import RandomResizedCrop
from jaxcompress.data.augment.erasing import RandomErasing
from jaxcompress.data.augment.mixing import Mix, mix
from jaxcompress.data.augment.randaugment import OPS, RandAugment
from jaxcompress.data.augment.views import Views

__all__ = [
  "OPS",
  "Augment",
  "Chain",
  "ColorJitter",
  "Mix",
  "RandAugment",
  "RandomErasing",
  "RandomResizedCrop",
  "Views",
  "chain",
  "mix",
  "random_flip",
  "random_shift",
]
