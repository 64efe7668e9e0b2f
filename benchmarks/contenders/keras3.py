"""Keras 3 on the JAX backend."""

import os

os.environ["KERAS_BACKEND"] = "jax"

import keras
import numpy as np

from contenders import CLASSES, MOMENTUM, RATE, Setting, Step, batch_of, rows_of


def network(setting: Setting):
  """The network of the rows, as a functional model."""
  rows, layers = rows_of(setting.width, setting.size), keras.layers

  def layer(x, features=None, kernel=1, stride=1, act=True):
    options = {"padding": "same", "use_bias": False}
    if features is None:
      x = layers.DepthwiseConv2D(kernel, stride, **options)(x)
    else:
      x = layers.Conv2D(features, kernel, stride, **options)(x)
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
    return layers.ReLU(6.0)(x) if act else x

  image = keras.Input((setting.size, setting.size, 3))
  x = layer(image, rows.stem, 3, rows.stride)
  for block in rows.blocks:
    y = layer(x, block.inner) if block.expands else x
    y = layer(layer(y, None, 3, block.stride), block.features, act=False)
    x = layers.Add()([x, y]) if x.shape == y.shape else y
  x = layers.GlobalAveragePooling2D()(layer(x, rows.head))
  return keras.Model(image, layers.Dense(CLASSES, dtype="float32")(x))


def train(setting: Setting) -> Step:
  """``train_on_batch`` of a compiled model."""
  if setting.dtype == "bfloat16":
    keras.config.set_dtype_policy("mixed_bfloat16")
  model = network(setting)
  loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  model.compile(keras.optimizers.SGD(RATE, MOMENTUM), loss, jit_compile=True)
  batch = batch_of(setting)
  trained = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
  return Step(lambda: model.train_on_batch(batch["image"], batch["label"]), trained)
