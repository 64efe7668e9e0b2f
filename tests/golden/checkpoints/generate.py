"""Writes the checkpoints here with torch 2, and what they hold as .npz: python generate.py"""

import argparse
import collections
import pathlib

import numpy as np

FOLDER = pathlib.Path(__file__).parent


def tensors(torch) -> dict:
  """One tensor of each type and layout."""
  torch.manual_seed(0)
  base = torch.randn(4, 6)
  return {
    "float32": torch.randn(2, 3),
    "float64": torch.randn(3, dtype=torch.float64),
    "float16": torch.randn(5).half(),
    "bfloat16": torch.randn(2, 2).bfloat16(),
    "int64": torch.tensor(2**40),
    "int32": torch.tensor([-3, 4], dtype=torch.int32),
    "int16": torch.tensor([-5], dtype=torch.int16),
    "int8": torch.tensor([-128, 127], dtype=torch.int8),
    "uint8": torch.tensor([0, 255], dtype=torch.uint8),
    "bool": torch.tensor([True, False, True]),
    "base": base,
    "transposed": base.t(),
    "rows": base[1:3],
    "strided": base[::2, 1::2],
    "expanded": torch.tensor([1.5]).expand(5),
    "channels_last": torch.randn(1, 2, 3, 2).to(memory_format=torch.channels_last),
    "empty": torch.zeros(0, 3),
    "parameter": torch.nn.Parameter(torch.randn(2)),
  }


def training(torch) -> dict:
  """Returns a training script's checkpoint: weights, numbers, options and optimizer."""
  torch.manual_seed(1)
  model = torch.nn.Sequential(
    torch.nn.Conv2d(2, 3, 3, bias=False), torch.nn.BatchNorm2d(3), torch.nn.Linear(3, 2)
  )
  optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
  for parameter in model.parameters():
    parameter.grad = torch.ones_like(parameter)
  optimizer.step()
  schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2])
  return {
    "epoch": 3,
    "model": collections.OrderedDict(
      (f"module.{name}", value) for name, value in model.state_dict().items()
    ),
    "opt": argparse.Namespace(lr=0.1, model="small", milestones=[1, 2], resume=None),
    "best_acc": np.float64(0.75),
    "accuracies": np.arange(3.0),
    "optimizer": optimizer.state_dict(),
    "schedule": schedule.state_dict(),
    "dtype": torch.float32,
    "device": torch.device("cpu"),
    "size": torch.Size([1, 2]),
    "names": {"conv", "norm"},
  }


def main() -> None:
  import torch

  named = tensors(torch)
  saved = training(torch)
  plain = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
  for name, thing in (
    ("tensors", named),
    ("training", saved),
    ("state_dict", plain.state_dict()),
  ):
    torch.save(thing, FOLDER / f"{name}_zip.pth")
    torch.save(thing, FOLDER / f"{name}_legacy.pth", _use_new_zipfile_serialization=False)
  torch.save(plain, FOLDER / "module_zip.pth")  # a whole module, which is to be refused
  for name, state in (
    ("tensors", named),
    ("training", saved["model"]),
    ("state_dict", plain.state_dict()),
  ):
    arrays = {
      key: (value.float() if value.dtype == torch.bfloat16 else value).detach().numpy()
      for key, value in state.items()
    }
    np.savez_compressed(FOLDER / f"{name}.npz", **arrays)


if __name__ == "__main__":
  main()
