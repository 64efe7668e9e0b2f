"""The networks' own classifiers, which losses read from their parameters."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxcompress.arguments import shown
from jaxcompress.distill.layers import Layer


def heads_of(
  name: str, extras: Mapping[str, Any], head: str, teacher_head: str | None
) -> tuple[Layer, Layer]:
  """The last layers of the student and of the first teacher, whose get no gradient.

  Args:
    name: of the loss, for errors.
    extras: of ``update``: ``student_params`` and ``teacher_params``.
    head: path of the student's layer in its parameters, such as ``classifier``.
    teacher_head: that of the teacher; None: the same.

  Returns:
    Layers ``{"kernel": (features, classes), "bias": (classes,)}`` in float32, whose bias is 0 where they
    have none.

  Raises:
    ValueError: if a network's parameters are not passed or have no such layer, or the classes differ.

  Examples:
    >>> params = {"classifier": {"kernel": jnp.ones((3, 10))}}
    >>> extras = {"student_params": params, "teacher_params": (params,)}
    >>> heads_of("cat_kd", extras, "classifier", None)[0]["bias"].shape
    (10,)
  """
  of_teacher = (extras.get("teacher_params") or (None,))[0]
  student = head_of(name, "student", extras.get("student_params"), head)
  teacher = head_of(name, "teacher", of_teacher, head if teacher_head is None else teacher_head)
  classes = [layer["kernel"].shape[-1] for layer in (student, teacher)]
  if classes[0] != classes[1]:
    raise ValueError(
      f"head: the student's knows {classes[0]} classes and the teacher's {classes[1]}; they must be"
      " the same."
    )
  return student, jax.lax.stop_gradient(teacher)


def head_of(name: str, network: str, params: Any, path: str) -> Layer:
  """A network's last layer; see :func:`heads_of`.

  Raises:
    ValueError: if its parameters are not passed or have no such layer, or it is no linear one.
  """
  if params is None:
    raise ValueError(
      f"{network}_params: {name} reads the {network}'s classifier from them and they were not"
      " passed; train with distill_step, or pass them to update."
    )
  node = params
  for part in path.split("/"):
    if not isinstance(node, Mapping) or part not in node:
      raise ValueError(
        f"head: the {network} has no layer {path!r}; its layers are {', '.join(params)}."
      )
    node = node[part]
  shape = jnp.shape(node["kernel"]) if isinstance(node, Mapping) and "kernel" in node else ()
  if len(shape) < 2 or any(side != 1 for side in shape[:-2]):
    raise ValueError(
      f"head: {path!r} of the {network} is no linear layer; name the last one, whose kernel is"
      " (features, classes) or (1, 1, features, classes)."
    )
  kernel = jnp.asarray(node["kernel"], jnp.float32).reshape(shape[-2:])
  bias = jnp.asarray(node.get("bias", jnp.zeros(kernel.shape[-1])), jnp.float32)
  return {"kernel": kernel, "bias": bias}


def check_head(argument: str, path: str) -> None:
  """Checks the form of a path to a layer.

  Raises:
    ValueError: if it is no text.

  Examples:
    >>> check_head("head", 3)
    Traceback (most recent call last):
    ValueError: head: 3 must be the path of a layer in the parameters, such as 'classifier'.
  """
  if not isinstance(path, str):
    raise ValueError(
      f"{argument}: {shown(path)} must be the path of a layer in the parameters, such as 'classifier'."
    )


def check_reads(name: str, network: str, path: str, layer: Layer, x: jax.Array) -> None:
  """Checks that a classifier reads the channels of a map.

  Raises:
    ValueError: if it does not.
  """
  if layer["kernel"].shape[0] != x.shape[-1]:
    raise ValueError(
      f"head: {path!r} of the {network} reads {layer['kernel'].shape[0]} channels and its last map has"
      f" {x.shape[-1]}; {name} needs the map that is averaged before the classifier."
    )


def on_last_maps(
  name: str,
  extras: Mapping[str, Any],
  head: str,
  teacher_head: str | None,
  maps: tuple[jax.Array, jax.Array],
) -> tuple[Layer, Layer]:
  """:func:`heads_of`, which must read the channels of the two networks' last maps.

  Raises:
    ValueError: as :func:`heads_of`, or if they do not.
  """
  layers = heads_of(name, extras, head, teacher_head)
  paths = (head, head if teacher_head is None else teacher_head)
  for network, path, layer, x in zip(("student", "teacher"), paths, layers, maps, strict=True):
    check_reads(name, network, path, layer, x)
  return layers
