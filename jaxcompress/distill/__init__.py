"""Distillation losses: what a student is taught by labels, teachers, or both."""

from jaxcompress.distill.adapters import adapter
from jaxcompress.distill.attention import attention, cat_kd, nst
from jaxcompress.distill.base import LossTransform, keep_where, stateful, stateless
from jaxcompress.distill.boundaries import ab, ofd, ofd_margin
from jaxcompress.distill.combine import (
  by_magnitude,
  by_uncertainty,
  chain,
  for_teacher,
  named_chain,
  scale,
  unweighted,
)
from jaxcompress.distill.contrastive import crd
from jaxcompress.distill.decoupled import dkd, nkd, rld
from jaxcompress.distill.exits import ofa, sdd
from jaxcompress.distill.factors import factor, paraphrase
from jaxcompress.distill.flow import fsp, kdsvd
from jaxcompress.distill.hints import fitnet, project, simkd, vid
from jaxcompress.distill.in_batch import dcd, in_batch_infonce
from jaxcompress.distill.logit_relations import dist, mlkd, mlkd_lskd, srd
from jaxcompress.distill.logits import cross_entropy, ctkd, kd, lskd
from jaxcompress.distill.orthogonal import vkd
from jaxcompress.distill.relations import correlation, pkt, rkd, similarity
from jaxcompress.distill.reviews import hcl, review
from jaxcompress.distill.teachers import for_teachers, patient, teacher_head
from jaxcompress.distill.transformed import ttm, wttm
from jaxcompress.distill.views import crld
from jaxcompress.distill.wasserstein import wkd_f, wkd_l
from jaxcompress.distill.zoo import DISTILLERS, parse

__all__ = [
  "DISTILLERS",
  "LossTransform",
  "ab",
  "adapter",
  "attention",
  "by_magnitude",
  "by_uncertainty",
  "cat_kd",
  "chain",
  "correlation",
  "crd",
  "crld",
  "cross_entropy",
  "ctkd",
  "dcd",
  "dist",
  "dkd",
  "factor",
  "fitnet",
  "for_teacher",
  "for_teachers",
  "fsp",
  "hcl",
  "in_batch_infonce",
  "kd",
  "kdsvd",
  "keep_where",
  "lskd",
  "mlkd",
  "mlkd_lskd",
  "named_chain",
  "nkd",
  "nst",
  "ofa",
  "ofd",
  "ofd_margin",
  "paraphrase",
  "parse",
  "patient",
  "pkt",
  "project",
  "review",
  "rkd",
  "rld",
  "scale",
  "sdd",
  "similarity",
  "simkd",
  "srd",
  "stateful",
  "stateless",
  "teacher_head",
  "ttm",
  "unweighted",
  "vid",
  "vkd",
  "wkd_f",
  "wkd_l",
  "wttm",
]
