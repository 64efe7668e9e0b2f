"""The whole step, compiled by the compilers of TPUs and GPUs, which need no device for that."""

import importlib.util
import re

import jax
import pytest

from benchmarks.programs import CASES, QUICK, TARGETS, UNTIMED, Target, compiled, devices_of, traced
from jaxcompress import models

COMPILERS = {"tpu": "libtpu", "cuda": "jax_cuda13_plugin"}
ONE, EIGHT = "v5e x1", "v5e x8"


def devices(name):
  target = TARGETS[name]
  if importlib.util.find_spec(COMPILERS[target.platform]) is None:
    pytest.skip(f"{COMPILERS[target.platform]} is not installed; .ci/aot installs it")
  return devices_of(target)


def step_of(case, name):
  small = models.resnet8(10)
  return traced(CASES[case], devices(name), 8, 32, small, small)


@pytest.mark.parametrize("case", ["float32", "bfloat16", "int8", "LSQ", "int8, CRD"])
def test_a_step_compiles_for_one_tpu_with_its_state_in_place(case):
  step, state = step_of(case, ONE)
  found = compiled(step, state, QUICK)
  assert found.donated == 1 and found.callbacks == 0 and found.cost.collectives == 0


@pytest.mark.parametrize("case", ["float32", "int8"])
def test_a_step_compiles_for_eight_tpus(case):
  found = compiled(*step_of(case, EIGHT), QUICK)
  assert found.donated == 1 and found.cost.collectives > 0


def test_delayed_ranges_and_local_statistics_leave_a_handful_of_messages():
  found = compiled(*step_of("int8, delayed, local", EIGHT), QUICK)
  assert 0 < found.cost.collectives <= 20


@pytest.mark.parametrize("name", ["H100 x1", "H100 x8"])
def test_a_step_compiles_for_gpus(name):
  found = compiled(*step_of("int8", name), UNTIMED)
  assert found.donated == 1 and (found.cost.collectives > 0) == (name == "H100 x8")


def test_operations_are_those_of_the_machine_and_not_of_the_host():
  depthwise = models.mobilenet_v2(10, 0.25)
  step, _ = traced(CASES["float32, no teacher"], devices(ONE), 8, 32, depthwise)
  groups = re.findall(r"feature_group_count = (\d+)", step.lower().as_text())
  assert any(int(count) > 1 for count in groups)  # hosts sum shifted maps instead


def test_memory_banks_are_split_over_all_devices():
  target = Target("tpu", "v5e:16x16", 256)
  if importlib.util.find_spec("libtpu") is None:
    pytest.skip("libtpu is not installed; .ci/aot installs it")
  small = models.resnet8(10)
  _, state = traced(CASES["int8, CRD"], devices_of(target), 8, 32, small, small)
  largest = max(jax.tree.leaves(state.loss_state), key=lambda x: x.size)
  assert largest.shape[0] == 256  # a part of a bank for each device
  assert largest.sharding.shard_shape(largest.shape)[0] == 1
