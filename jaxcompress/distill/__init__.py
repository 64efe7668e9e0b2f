"""Distillation losses: what a student is taught by labels, teachers, or both."""

from jaxcompress.distill.base import LossTransform, keep_where, stateful, stateless
from jaxcompress.distill.combine import ScaleState, chain, for_teacher, named_chain, scale
from jaxcompress.distill.contrastive import CRDParams, CRDState, crd
from jaxcompress.distill.logits import cross_entropy, kd

__all__ = [
  "CRDParams",
  "CRDState",
  "LossTransform",
  "ScaleState",
  "chain",
  "crd",
  "cross_entropy",
  "for_teacher",
  "kd",
  "keep_where",
  "named_chain",
  "scale",
  "stateful",
  "stateless",
]
