"""PyTorch, eager and compiled, channels last, with its own quantization-aware training."""

import torch
from torch import nn
from torch.nn import functional as F

from contenders import (
  CLASSES,
  KD_TEMPERATURE,
  KD_WEIGHT,
  MOMENTUM,
  RATE,
  TEACHER_WIDTH,
  Setting,
  Step,
  batch_of,
  rows_of,
)


def layer(inputs, features, kernel=1, stride=1, groups=1, act=nn.ReLU6):
  """Convolution, BatchNorm and activation."""
  conv = nn.Conv2d(inputs, features, kernel, stride, kernel // 2, groups=groups, bias=False)
  parts = [conv, nn.BatchNorm2d(features)]
  return nn.Sequential(*parts, act()) if act else nn.Sequential(*parts)


class Residual(nn.Module):
  """An inverted residual; the addition is a module, as quantization asks."""

  def __init__(self, inputs, block, act, add):
    super().__init__()
    layers = [layer(inputs, block.inner, act=act)] if block.expands else []
    layers.append(layer(block.inner, block.inner, 3, block.stride, block.inner, act))
    self.body = nn.Sequential(*layers, layer(block.inner, block.features, act=None))
    self.add = add() if block.stride == 1 and inputs == block.features else None

  def forward(self, x):
    y = self.body(x)
    return y if self.add is None else self.add.add(x, y)


class MobileNetV2(nn.Module):
  """The network of the rows."""

  def __init__(self, rows, act=nn.ReLU6, add=torch.ao.nn.quantized.FloatFunctional):
    super().__init__()
    self.enter, self.leave = torch.ao.quantization.QuantStub(), torch.ao.quantization.DeQuantStub()
    layers, channels = [layer(3, rows.stem, 3, rows.stride, act=act)], rows.stem
    for block in rows.blocks:
      layers.append(Residual(channels, block, act, add))
      channels = block.features
    self.features = nn.Sequential(*layers, layer(channels, rows.head, act=act))
    self.classifier = nn.Linear(rows.head, CLASSES)

  def forward(self, x):
    return self.leave(self.classifier(self.features(self.enter(x)).mean((2, 3))))


def quantized(rows):
  """Prepared by torch.ao: ReLU for ReLU6, as torchvision's own quantizable networks do."""
  model = MobileNetV2(rows, nn.ReLU).train()
  for module in list(model.modules()):  # fused ones are sequences again
    if isinstance(module, nn.Sequential) and isinstance(module[0], nn.Conv2d):
      names = [str(i) for i in range(len(module))]
      torch.ao.quantization.fuse_modules_qat(module, names, inplace=True)
  model.qconfig = torch.ao.quantization.get_default_qat_qconfig("x86")
  return torch.ao.quantization.prepare_qat(model)


def train(setting: Setting, compiled: bool) -> Step:
  """A step of SGD with momentum."""
  device = "cuda" if torch.cuda.is_available() else "cpu"
  batch = batch_of(setting)
  images = torch.tensor(batch["image"], device=device).permute(0, 3, 1, 2)  # channels last
  labels = torch.tensor(batch["label"], dtype=torch.long, device=device)

  def placed(model):
    return model.to(device).to(memory_format=torch.channels_last)

  rows = rows_of(setting.width, setting.size)
  model = placed(quantized(rows) if setting.task == "int8" else MobileNetV2(rows).train())
  distil = setting.task == "distill"
  teacher = placed(MobileNetV2(rows_of(TEACHER_WIDTH, setting.size)).eval()) if distil else None
  optimizer = torch.optim.SGD(model.parameters(), RATE, MOMENTUM)
  lower = setting.dtype == "bfloat16"

  def loss_of():
    with torch.autocast(device, torch.bfloat16, enabled=lower):
      logits = model(images)
      if teacher is not None:
        with torch.no_grad():
          said = teacher(images)
    loss = F.cross_entropy(logits.float(), labels)
    if teacher is None:
      return loss
    soft = F.softmax(said.float() / KD_TEMPERATURE, 1)
    kd = F.cross_entropy(logits.float() / KD_TEMPERATURE, soft) * KD_TEMPERATURE**2
    return (1 - KD_WEIGHT) * loss + KD_WEIGHT * kd

  evaluate = torch.compile(loss_of) if compiled else loss_of

  def run():
    optimizer.zero_grad(set_to_none=True)
    evaluate().backward()
    optimizer.step()
    if device == "cuda":
      torch.cuda.synchronize()

  return Step(run, sum(p.numel() for p in model.parameters()))


def eager(setting: Setting) -> Step:
  """As it is written."""
  return train(setting, False)


def compiled(setting: Setting) -> Step:
  """By ``torch.compile``."""
  return train(setting, True)
