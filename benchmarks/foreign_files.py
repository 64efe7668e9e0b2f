"""Writes .tflite files by TensorFlow's converter, for benchmarks/foreign.py.

    python benchmarks/foreign_files.py FOLDER

It needs TensorFlow alone, which is no dependency of jaxcompress: run it in an environment of its own. Networks
are small and have random weights; each is written with int8, uint8 and float32 ends, and with 16-bit activations.
"""

import argparse
import os
import pathlib

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow as tf

L = tf.keras.layers
SHAPE = (16, 16, 3)
CALIBRATION = 16


def normalised(x, features, kernel, stride, act):
  x = L.Conv2D(features, kernel, stride, padding="same", use_bias=False)(x)
  return act(L.BatchNormalization()(x)) if act else L.BatchNormalization()(x)


def residual(x):
  x = normalised(x, 8, 3, 2, L.ReLU(6.0))
  x = L.ReLU(6.0)(L.BatchNormalization()(L.DepthwiseConv2D(3, padding="same", use_bias=False)(x)))
  x = L.Add()([x, normalised(x, 8, 1, 1, None)])
  return L.Dense(5, activation="softmax")(L.GlobalAveragePooling2D()(x))


def pools(x):
  x = L.Conv2D(8, 5, 2, padding="valid", activation="relu")(x)
  x = L.AveragePooling2D(2, 1, padding="same")(L.MaxPooling2D(3, 2, padding="same")(x))
  return L.Dense(4)(L.Dense(16, activation="relu")(L.Flatten()(x)))


def gates(x):
  x = L.Conv2D(8, 3, 2, padding="same")(x)
  x = x * L.ReLU(6.0)(x + 3.0) * (1 / 6.0)
  s = L.Conv2D(4, 1, activation="relu")(L.GlobalAveragePooling2D(keepdims=True)(x))
  x = x * (L.ReLU(6.0)(L.Conv2D(8, 1)(s) + 3.0) * (1 / 6.0))
  return L.Dense(6)(L.GlobalAveragePooling2D()(L.Conv2D(8, 1)(x)))


def shuffle(x):
  x = L.Conv2D(8, 3, 2, padding="same", activation="relu")(x)
  x = L.Concatenate()([x[..., :4], L.Conv2D(4, 1, activation="relu")(x[..., 4:])])
  x = L.Reshape((8, 8, 8))(L.Permute((1, 2, 4, 3))(L.Reshape((8, 8, 2, 4))(x)))
  return L.Dense(3, activation="sigmoid")(L.GlobalAveragePooling2D()(L.Conv2D(8, 1)(x)))


def decoder(x):
  a = L.Conv2D(8, 3, 1, padding="same", activation="relu")(x)
  b = L.Conv2D(8, 3, 2, padding="same", activation="relu")(a)
  c = L.ReLU()(L.Conv2DTranspose(8, 3, 2, padding="same")(b))
  d, e = L.UpSampling2D(2, interpolation="bilinear")(b), L.UpSampling2D(2)(b)
  return L.Conv2D(2, 1)(L.Concatenate()([a, c, d, e]))


def functions(x):
  x = L.Conv2D(8, 3, 2, padding="same")(x)
  y, z = L.LeakyReLU(0.1)(x), tf.keras.activations.tanh(x)
  w, v = tf.keras.activations.sigmoid(x), tf.keras.activations.hard_sigmoid(x)
  x = L.Minimum()([L.Maximum()([x, y]) * w - z, y])
  return L.ReLU()(x + v)


def padded(x):
  x = L.ZeroPadding2D(((0, 1), (0, 1)))(L.Rescaling(1 / 127.5, offset=-1.0)(x))
  x = L.ReLU()(L.BatchNormalization()(L.Conv2D(8, 3, 2)(x)))
  x = L.Conv2D(8, 3, dilation_rate=2, padding="same")(L.Cropping2D(1)(x))
  return L.Dense(4)(L.Flatten()(L.SeparableConv2D(8, 3, depth_multiplier=2)(x)))


def tokens(x):
  x = L.Reshape((16, 8))(L.Conv2D(8, 4, 4)(x))
  q, k, v = (L.Dense(8)(x) for _ in range(3))
  x = x + L.Dot((2, 1))([L.Softmax()(L.Dot((2, 2))([q, k]) * 8**-0.5), v])
  return L.Dense(3)(L.GlobalAveragePooling1D()(L.Dense(8)(L.Dense(16, activation="relu")(x))))


def two_ends(x):
  x = normalised(x, 8, 3, 2, L.ReLU())
  return [L.Conv2D(4, 1)(x), L.Dense(3, activation="softmax")(L.GlobalAveragePooling2D()(x))]


def vectors(x):
  x = L.BatchNormalization()(L.Dense(32, activation="relu")(x))
  return L.Dense(40)(L.Dense(32, activation="relu")(x))


NETWORKS = {
  **{f.__name__: (f, SHAPE) for f in (residual, pools, gates, shuffle, decoder, functions)},
  **{f.__name__: (f, SHAPE) for f in (padded, tokens, two_ends)},
  "vectors": (vectors, (40,)),
}
KINDS = {"int8": "int8", "uint8": "int8", "float32": "int8", "int16": "int16"}  # of ends, inside


def network(build, shape, rng, batch):
  source = L.Input(shape, batch_size=batch)
  model = tf.keras.Model(source, build(source))
  for layer in model.layers:
    if isinstance(layer, L.BatchNormalization):
      count = layer.get_weights()[0].shape
      draws = (rng.normal(1, 0.2, count), rng.normal(0, 0.3, count), rng.normal(0, 0.2, count))
      layer.set_weights([*draws, rng.uniform(0.5, 1.5, count)])
  return model


def convert(model, shape, ends, inside, rng):
  converter = tf.lite.TFLiteConverter.from_keras_model(model)
  converter.optimizations = [tf.lite.Optimize.DEFAULT]
  images = [rng.normal(size=(1, *shape)).astype(np.float32) for _ in range(CALIBRATION)]
  converter.representative_dataset = lambda: ([image] for image in images)
  sets = tf.lite.OpsSet
  wide = sets.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
  converter.target_spec.supported_ops = [wide if inside == "int16" else sets.TFLITE_BUILTINS_INT8]
  if ends != "float32":
    converter.inference_input_type = converter.inference_output_type = getattr(tf, ends)
  return converter.convert()


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("folder", type=pathlib.Path)
  parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
  args = parser.parse_args()
  args.folder.mkdir(parents=True, exist_ok=True)
  for name in args.networks:
    build, shape = NETWORKS[name]
    tf.keras.utils.set_random_seed(0)
    for batch in (1, None):
      rng = np.random.default_rng(0)
      model = network(build, shape, rng, batch)
      for ends, inside in KINDS.items():
        if batch is None and ends != "int8":
          continue
        path = args.folder / f"{name}_{ends if batch else 'free'}.tflite"
        try:
          path.write_bytes(convert(model, shape, ends, inside, rng))
          print(path, flush=True)
        except RuntimeError as error:  # the converter has no 16 bits of some operators
          print(path, "not converted:", error, flush=True)


if __name__ == "__main__":
  main()
