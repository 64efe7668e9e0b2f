"""All losses by name, for the command line and whoever else has only words."""

import inspect
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxcompress.arguments import unknown
from jaxcompress.distill.attention import attention, cat_kd, nst
from jaxcompress.distill.base import LossTransform
from jaxcompress.distill.boundaries import ab, ofd
from jaxcompress.distill.combine import named_chain, scale, unweighted
from jaxcompress.distill.contrastive import crd
from jaxcompress.distill.decoupled import dkd, nkd, rld
from jaxcompress.distill.exits import ofa, sdd
from jaxcompress.distill.factors import factor, paraphrase
from jaxcompress.distill.flow import fsp, kdsvd
from jaxcompress.distill.hints import fitnet, simkd, vid
from jaxcompress.distill.in_batch import dcd, in_batch_infonce
from jaxcompress.distill.logit_relations import dist, mlkd, mlkd_lskd, srd
from jaxcompress.distill.logits import cross_entropy, ctkd, kd, lskd
from jaxcompress.distill.orthogonal import vkd
from jaxcompress.distill.relations import correlation, pkt, rkd, similarity
from jaxcompress.distill.reviews import review
from jaxcompress.distill.transformed import ttm, wttm
from jaxcompress.distill.views import crld
from jaxcompress.distill.wasserstein import wkd_f, wkd_l

LABELS = "cross_entropy"


class Distiller(NamedTuple):
  """A distillation loss as a row of the table.

  Attributes:
    make: builds it; all arguments have defaults, but ``num_examples``.
    family: ``logits``, ``features``, ``relations`` or ``contrast``.
    formula: one line; s is the student, t the teacher.
    reads: what it reads of the networks and the batch.
    weight: usual factor: RepDistiller's for its methods, else the authors'.
    labels: weight of the cross-entropy that goes with it where it is the only loss; None: what its
      own weight lacks to 1.
    first: builds the loss of the stage before, for methods that have one; with the usual weight of
      the method, its factor there is 1.
    moves: what the first stage moves, as :class:`~jaxcompress.training.Recipe` has it.
    frozen: paths below the loss's own that it trained and that stand still afterwards.
    stays: whether the loss is part of the main stage.
    first_rate: the most that the learning rate of the first stage may be; None: any.
    weighs: whether it takes examples one by one, and so weighs them by a batch's ``weight``.
    views: augmentations of each image, weak ones and then strong ones, that make up its batch.
  """

  make: Callable[..., LossTransform]
  family: str
  formula: str
  reads: tuple[str, ...]
  weight: float
  labels: float | None = 1.0
  first: Callable[..., LossTransform] | None = None
  moves: tuple[str, ...] = ()
  frozen: tuple[str, ...] = ()
  stays: bool = True
  first_rate: float | None = None
  weighs: bool = False
  views: int = 1


TRUNK = ("student", "!last", "loss")
EVERYTHING = ("student", "quantizer", "loss")
ALIASES = {"hint": "fitnet", "abound": "ab"}  # RepDistiller's

DISTILLERS = {
  "kd": Distiller(kd, "logits", "T² KL(p_t ‖ p_s), p = softmax(z/T)", ("logits",), 0.9, None, weighs=True),
  "dkd": Distiller(
    dkd, "logits", "T² (α KL(label or not) + β KL(other classes))", ("logits", "label"), 1.0, weighs=True,
  ),
  "nkd": Distiller(
    nkd, "logits", "−t_y log s_y − γT² Σ N(t) log N(s), c ≠ y", ("logits", "label"), 1.0, weighs=True,
  ),
  "rld": Distiller(
    rld, "logits", "α KL(t_top ‖ s_y) + β T² KL below the label", ("logits", "label"), 1.0, weighs=True,
  ),
  "ttm": Distiller(ttm, "logits", "KL(softmax(γ z_t) ‖ p_s)", ("logits",), 45.0, weighs=True),
  "wttm": Distiller(wttm, "logits", "Σ p_t^γ · KL(softmax(γ z_t) ‖ p_s)", ("logits",), 4.0, weighs=True),
  "lskd": Distiller(lskd, "logits", "T² KL of softmax(z-score(logits)/T)", ("logits",), 9.0, 0.1, weighs=True),
  "ctkd": Distiller(ctkd, "logits", "KD, min over s, max over T", ("logits",), 0.9, None, weighs=True),
  "dist": Distiller(dist, "logits", "1 − pearson(rows) + 1 − pearson(columns)", ("logits",), 1.0),
  "mlkd": Distiller(
    mlkd, "logits", "Σ_T KD + |PPᵀ difference|²/B + |PᵀP difference|²/C", ("logits",), 1.0
  ),
  "mlkd_lskd": Distiller(
    mlkd_lskd, "logits", "MLKD on z-scores of a weak and a strong view", ("logits",), 9.0, 0.2, views=2,
  ),
  "crld": Distiller(
    crld, "logits", "KD within and across views where t is sure", ("logits",), 1.0, 2.0, views=2,
  ),
  "srd": Distiller(srd, "logits", "2 log Σ|n(Ws) − n(t)|⁴ + KL", ("pooled", "logits"), 1.0),
  "wkd_l": Distiller(
    wkd_l, "logits", "−t_y log s_y + γ Sinkhorn(s, t), c ≠ y", ("logits", "label", "classifiers"), 1.0,
    weighs=True,
  ),
  "sdd": Distiller(
    sdd, "logits", "DKD of the classifiers on 1², 2², 4² regions", ("maps", "label", "classifiers"), 1.0,
    weighs=True,
  ),
  "ofa": Distiller(
    ofa, "logits", "−Σ_l Σ ((t + y)^e − y) log b_l(x_l)", ("maps", "pooled", "logits", "label"), 1.0,
  ),
  "fitnet": Distiller(fitnet, "features", "mean (r(s) − t)²", ("maps",), 100.0),
  "attention": Distiller(
    attention, "features", "mean (a_s − a_t)², a = unit(mean_c x²)", ("maps",), 1000.0, weighs=True,
  ),
  "vid": Distiller(vid, "features", "½ mean ((m(s) − t)²/σ² + log σ²)", ("maps",), 1.0, weighs=True),
  "ab": Distiller(
    ab, "features", "Σ 2^(l−L+1) (s ± 1)² across t's boundary, first stage", ("preact",), 1.0,
    first=ab, moves=TRUNK, stays=False,
  ),
  "factor": Distiller(
    factor, "features", "mean |f(translate(s)) − f(paraphrase(t))|", ("maps",), 200.0,
    first=paraphrase, moves=("loss/factor/*/paraphraser",), frozen=("*/paraphraser",),
    first_rate=0.01,
  ),
  "ofd": Distiller(ofd, "features", "Σ 2^(l−L+1) (s − max(t, m))² where active", ("preact",), 1e-3),
  "review": Distiller(
    review, "features", "Σ_levels MSE(fused s, t) by pyramid", ("preact", "pooled"), 1.0
  ),
  "simkd": Distiller(
    simkd, "features", "mean (P(s) − t)², teacher's classifier", ("maps",), 1.0, 0.0
  ),
  "cat_kd": Distiller(
    cat_kd, "features", "mean (unit(CAM_s) − unit(CAM_t))²", ("maps", "classifiers"), 400.0, weighs=True,
  ),
  "wkd_f": Distiller(
    wkd_f, "features", "4 |mean r(s) − mean t|² + |dev r(s) − dev t|²", ("maps",), 0.08,
  ),
  "vkd": Distiller(
    vkd, "features", "mean Huber(Q f_s − layernorm(f_t)), Q orthogonal", ("pooled",), 1.0, weighs=True,
  ),
  "nst": Distiller(nst, "features", "MMD² of channels, kernel ⟨a, b⟩²", ("maps",), 50.0, weighs=True),
  "similarity": Distiller(
    similarity, "relations", "|unit(G_t) − unit(G_s)|²/B², G = XXᵀ", ("maps",), 3000.0
  ),
  "correlation": Distiller(
    correlation, "relations", "mean_i Σ d_i d_(i+1), d = |e_s − e_t|", ("pooled",), 0.02
  ),
  "rkd": Distiller(rkd, "relations", "25 H(distances) + 50 H(angles)", ("pooled",), 1.0),
  "pkt": Distiller(pkt, "relations", "mean q log(q/p) of cosine affinities", ("pooled",), 30000.0),
  "fsp": Distiller(
    fsp, "relations", "Σ mean (F_t − F_s)², F = maps' Gram, first stage", ("maps",), 1.0,
    first=fsp, moves=TRUNK, stays=False, weighs=True,
  ),
  "kdsvd": Distiller(
    kdsvd, "relations", "Σ (RBF(v_s) − RBF(v_t))² of singular vectors", ("maps",), 1.0, weighs=True,
  ),
  "crd": Distiller(
    crd, "contrast", "NCE of e_s in t's bank + e_t in s's bank", ("pooled", "index"), 0.8
  ),
  "dcd": Distiller(
    dcd, "contrast", "InfoNCE of e_s, e_t + ½ KL of both directions", ("pooled",), 1.0
  ),
  "in_batch_infonce": Distiller(
    in_batch_infonce, "contrast", "InfoNCE of e_s, e_t in the batch", ("pooled",), 0.8
  ),
}  # fmt: skip
"""All losses, by the name that the command line knows."""


class Parsed(NamedTuple):
  """Losses as a list asks for them.

  Attributes:
    loss: of the main stage, a :func:`~jaxcompress.distill.named_chain`.
    first: of the stage before, or None.
    moves: paths in the trained tree that this first stage moves.
    trainable: paths that the main stage moves.
    weights: of the main stage, by name, cross-entropy included.
    first_rate: the most that the learning rate of the first stage may be; None: any.
    views: augmentations of each image that the main stage's batches are to have, as
      :class:`jaxcompress.data.Views` makes them: weak ones, and then strong ones.
  """

  loss: LossTransform
  first: LossTransform | None
  moves: tuple[str, ...]
  trainable: tuple[str, ...]
  weights: dict[str, float]
  first_rate: float | None = None
  views: int = 1

  def first_stage_rate(self, rate: float) -> float:
    """The constant learning rate of the first stage where the main one starts at ``rate``.

    Examples:
      >>> parse("factor").first_stage_rate(0.05), parse("ab").first_stage_rate(0.05)
      (0.01, 0.05)
    """
    return rate if self.first_rate is None else min(rate, self.first_rate)


def parse(text: str, *, num_examples: int | None = None, **settings: Any) -> Parsed:
  """Builds losses from text such as ``kd:0.9,crd:0.8``.

  Each item is a name of :data:`DISTILLERS` and, after a colon, its weight; without one it has the
  usual; ``hint`` and ``abound`` are names of ``fitnet`` and ``ab``. Cross-entropy with the labels
  has weight 1, as in RepDistiller's scripts, except: with ``kd:W`` or ``ctkd:W`` alone it is 1 - W
  (0.1 and 0.9, the scripts' pair, if W is left out), with ``lskd`` alone 0.1, with ``simkd`` alone
  0; and ``labels:W`` sets it. Where a batch has ``weight``, losses that do not take examples one by
  one count all alike.

  Args:
    text: the list.
    num_examples: training images, for ``crd``.
    **settings: arguments of losses by name, such as ``kd={"temperature": 2.0}``.

  Returns:
    A :class:`Parsed`. Terms carry their names, so metrics read ``kd/kd`` and stages share what they
    train.

  Raises:
    ValueError: for an unknown or repeated name, a weight that is no positive number, settings of a
      loss that is not there, or ``crd`` without ``num_examples``.

  Examples:
    >>> parse("kd").weights
    {'labels': 0.1, 'kd': 0.9}
    >>> parse("kd:1,crd", num_examples=100).weights
    {'labels': 1.0, 'kd': 1.0, 'crd': 0.8}
    >>> parse("attention,labels:0.5").weights
    {'attention': 1000.0, 'labels': 0.5}
  """
  weights = _weights(text)
  chosen = {name: DISTILLERS[name] for name in weights if name != "labels"}
  if unused := [name for name in settings if name not in chosen]:
    raise ValueError(f"settings: {unused[0]!r} is not among the losses {text!r}; leave it out.")
  if not chosen:
    raise ValueError(
      f"distill: {text!r} has no loss but labels; name one of {', '.join(DISTILLERS)}."
    )
  if "labels" not in weights:
    weights = {"labels": _label_weight(weights), **weights}

  def build(name, make, weight):
    given = dict(settings.get(name, {}))
    if "num_examples" in inspect.signature(make).parameters:
      if num_examples is None:
        raise ValueError(f"num_examples: {name} needs the number of training images.")
      given = {"num_examples": num_examples, **given}
    known = inspect.signature(make).parameters
    loss = make(**{key: v for key, v in given.items() if key in known})
    return scale(weight, loss if DISTILLERS[name].weighs else unweighted(loss))

  terms, first = {}, {}
  if weights["labels"] > 0:
    terms["labels"] = scale(weights["labels"], cross_entropy())
  for name, method in chosen.items():
    if unknown := settings.get(name, {}).keys() - inspect.signature(method.make).parameters.keys():
      raise ValueError(
        f"settings: {name} has no {', '.join(unknown)}; it has"
        f" {', '.join(inspect.signature(method.make).parameters)}."
      )
    if method.stays:
      terms[name] = build(name, method.make, weights[name])
    if method.first is not None:
      first[name] = build(name, method.first, weights[name] / method.weight)
  moves = tuple(dict.fromkeys(path for name in first for path in chosen[name].moves))
  frozen = tuple(
    f"!loss/{name}/{path}" for name in chosen if name in terms for path in chosen[name].frozen
  )
  return Parsed(
    loss=named_chain(**terms),
    first=named_chain(**first) if first else None,
    moves=moves,
    trainable=EVERYTHING + frozen,
    weights={name: weight for name, weight in weights.items() if weight > 0},
    first_rate=min((r for n in first if (r := DISTILLERS[n].first_rate) is not None), default=None),
    views=max(method.views for method in chosen.values()),
  )


def _label_weight(weights: dict[str, float]) -> float:
  """Returns the weight of cross-entropy where the text names none."""
  if len(weights) > 1:
    return 1.0
  ((name, weight),) = weights.items()
  alone = DISTILLERS[name].labels
  return round(max(0.0, 1 - weight), 6) if alone is None else alone


def _weights(text: str) -> dict[str, float]:
  """Names and weights, the usual ones where none are given."""
  weights: dict[str, float] = {}
  for item in text.split(","):
    name, colon, number = (part.strip() for part in item.partition(":"))
    name = ALIASES.get(name, name)
    if name not in DISTILLERS and name != "labels":
      start = re.match(r"\w+", name)
      if start and start[0] in DISTILLERS:
        wanted = f"{start[0]}:{DISTILLERS[start[0]].weight:g}"
        raise ValueError(f"distill: {name!r} must be a name, or name:weight, such as {wanted}.")
      raise unknown("distill", name, [*DISTILLERS, "labels"])
    if name in weights:
      raise ValueError(f"distill: {name!r} is there twice; name each loss once.")
    if name == "labels" and not colon:
      number, colon = "1", ":"
    try:
      weight = float(number) if colon else DISTILLERS[name].weight
    except ValueError:
      weight = -1.0
    lowest_ok = weight >= 0 if name == "labels" else weight > 0
    if not lowest_ok or weight == float("inf"):
      raise ValueError(f"distill: {item.strip()!r} must be a name, or name:weight above 0.")
    weights[name] = weight
  return weights
