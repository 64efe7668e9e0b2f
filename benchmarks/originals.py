"""Logits of every PyTorch source against float64 runs of the originals, all in one run.

The weights are generated (``tests/golden/parity``), so nothing is downloaded. Run it from the
project's root:

    python benchmarks/originals.py
"""

import argparse
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from jaxcompress import models
from tests.golden.parity import weights as parity


def difference(source: str) -> float:
  """Largest difference of a logit, relative to max(1, largest logit / 10)."""
  model, variables = models.from_torch(source, parity.state_dict(source))
  nchw = parity.image(32 if source.startswith("crd/") else 96)
  apply = jax.jit(lambda v, x: model.apply(v, x, train=False).logits)
  logits = np.asarray(apply(variables, jnp.asarray(nchw.transpose(0, 2, 3, 1))))
  original = parity.outputs()[f"{source}/logits"]
  return float(np.abs(logits[:, : original.shape[1]] - original).max()) / max(
    1.0, float(np.abs(logits).max()) / 10
  )


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--only", default="", help="sources whose names contain this")
  chosen = [source for source in models.SOURCES if parser.parse_args().only in source]
  found = {}
  for source in chosen:
    found[source] = difference(source)
    print(f"{source:45} {found[source]:.1e}", flush=True)
    jax.clear_caches()  # compiled programs of all networks would fill gigabytes
  worst = max(found, key=found.get)
  print(f"{len(found)} sources, largest difference {found[worst]:.1e} ({worst})")


if __name__ == "__main__":
  main()
