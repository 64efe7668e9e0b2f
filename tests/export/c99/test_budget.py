"""A network in strips computes the same integers; a budget is kept, or the error says the least."""

import re
from functools import partial

import numpy as np
import pytest

from jaxcompress import models
from jaxcompress.export.c99 import budget, texts
from jaxcompress.export.c99.emit import emit
from jaxcompress.export.c99.plan import plan_stages
from jaxcompress.export.c99.schedule import flow_of, targets
from jaxcompress.export.c99.strips import in_strips, striped_ends
from tests.export.c99.networks import Machine

FAMILIES = {
  "mobilenet_v2": lambda: models.mobilenet_v2(7, width=0.35),
  "mobilenet_v3": lambda: models.mobilenet_v3_small(7, 0.35),
  "shufflenet_v2": lambda: models.shufflenet_v2(7, 0.5),
  "resnet": lambda: models.resnet8(7),
}


def forced(network, ram, count=3):
  """As ``fit``, but in strips wherever they can be."""
  stop = [end for end in striped_ends(network) if in_strips(network, end, count)][-1]
  strips, length = in_strips(network, stop, count), len(network.operations)
  stages = budget._stages(strips, ((stop, length),), length)
  return strips.network, plan_stages(flow_of(strips.network), stages, strips.more)


def walk(network, plan):
  Machine(network, plan).run(partial(targets, flow_of(network)))


@pytest.mark.slow
def test_strips_are_bit_equal(networks, in_c, tmp_path, monkeypatch):
  monkeypatch.setattr(texts, "fit", forced)
  cases = [
    networks.random_quantized(make(), (40, 38, 3), seed).with_kernels("tflm")
    for seed, make in enumerate(FAMILIES.values())
  ]
  codes = [q.quantize_input(networks.images_for(q, 2, i)) for i, q in enumerate(cases)]
  for found, quantized, each in zip(in_c(tmp_path, cases, codes), cases, codes, strict=True):
    for name, integers in quantized.outputs(each).items():
      np.testing.assert_array_equal(found[name], integers)
    striped, plan = forced(emit(quantized), None)
    assert plan.more > 0
    walk(striped, plan)


@pytest.mark.slow
def test_a_budget_is_kept_or_the_error_says_the_least(networks):
  network = emit(networks.random_quantized(FAMILIES["mobilenet_v2"](), (96, 96, 3), 0))
  _, free = budget.fit(network, None)
  assert free.more == 0
  assert budget.fit(network, free.bytes) == (network, free)
  with pytest.raises(ValueError, match="ram: 1,000 must be at least") as refused:
    budget.fit(network, 1000)
  least = int(re.search(r"at least ([\d,]+)", str(refused.value))[1].replace(",", ""))
  striped, found = budget.fit(network, least)
  assert found.bytes <= least <= free.bytes
  walk(striped, found)


@pytest.mark.parametrize("ram", ["64KB", 2048.0, True, [2048]])
def test_a_budget_is_a_whole_number_of_bytes(ram, networks):
  quantized = networks.random_quantized(FAMILIES["resnet"](), (24, 24, 3))
  with pytest.raises(ValueError, match=r"ram: .* must be a whole number of bytes"):
    texts.write_texts(quantized, ram=ram)
