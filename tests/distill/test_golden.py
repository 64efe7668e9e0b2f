"""Losses, all gradients and running statistics against the authors' PyTorch code in float64."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress import distill
from jaxcompress.distill.combine import ScaleState
from jaxcompress.distill.layers import Moments
from jaxcompress.distill.reviews import fuse
from jaxcompress.nn import Endpoints

ALL = tuple(range(4))
MOMENTUM = np.float32(0.1)  # PyTorch's


def nhwc(x):
  return np.moveaxis(x, 1, -1) if x.ndim == 4 else x


def hwio(x):
  return np.transpose(x, (2, 3, 1, 0))


def transposed(x):
  """A transposed convolution's kernel as that of a convolution of the dilated input."""
  return np.transpose(x, (2, 3, 0, 1))[::-1, ::-1]


class Torch:
  """Arrays of PyTorch's modules as trees of ours; ``kind`` is param or gradparam."""

  def __init__(self, arrays, kind):
    self.arrays, self.prefix = arrays, {"param": "param_", "gradparam": "f64_gradparam_"}[kind]

  def __call__(self, name):
    return self.arrays[self.prefix + name]

  def linear(self, name):
    return {"kernel": self(f"{name}.weight").T, "bias": self(f"{name}.bias")}

  def conv(self, name, layout=hwio, bias=True):
    layer = {"kernel": layout(self(f"{name}.weight"))}
    return {**layer, "bias": self(f"{name}.bias")} if bias else layer

  def conv_norm(self, conv, norm, layout=hwio):
    scale, bias = self(f"{norm}.weight"), self(f"{norm}.bias")
    return {"kernel": layout(self(f"{conv}.weight")), "scale": scale, "bias": bias}


def statistics(arrays, norm, *, after=False, conv=None):
  """Running statistics; our convolutions lack the bias that only moves the running mean."""
  prefix = "after_" if after else "param_"
  mean, variance = (arrays[f"{prefix}{norm}.running_{name}"] for name in ("mean", "var"))
  bias = arrays.get(f"param_{conv}.bias")
  return Moments(mean - MOMENTUM * bias if after and bias is not None else mean, variance)


class Case(NamedTuple):
  """One file of golden arrays.

  Attributes:
    file: in tests/golden/distill.
    make: builds the loss from the arrays.
    field: of the endpoints that the inputs are.
    tag: behind the names of loss and gradients.
    inputs: suffix of the inputs' names.
    params: ``(Torch) -> parameters``.
    state: ``(arrays, after) -> state``.
    teacher_field: where it differs.
  """

  file: str
  make: Callable[[dict], distill.LossTransform]
  field: str = "maps"
  tag: str = ""
  inputs: str = ""
  params: Callable[[Torch], Any] = lambda torch: ()
  state: Callable[..., Any] = lambda arrays, after: ()


def hint_params(torch):
  layouts = (hwio, transposed, hwio, hwio)
  return tuple(torch.conv_norm(f"reg{i}.conv", f"reg{i}.bn", layouts[i]) for i in range(4))


def hint_state(arrays, after):
  return tuple(statistics(arrays, f"reg{i}.bn", after=after, conv=f"reg{i}.conv") for i in range(4))


CONNECTOR = "connector.connectors"


def connector_params(torch):
  names = [f"{CONNECTOR}.{i}" for i in (1, 2)]
  return ((), *(torch.conv_norm(f"{name}.conv", f"{name}.bn") for name in names))


def connector_state(arrays, after):
  names = [f"{CONNECTOR}.{i}" for i in (1, 2)]
  return (
    (),
    *(statistics(arrays, f"{name}.bn", after=after, conv=f"{name}.conv") for name in names),
  )


def vid_params(torch):
  return tuple(
    {
      **{f"conv{j + 1}": torch.conv(f"vid{i}.regressor.{2 * j}", bias=False) for j in range(3)},
      "log_scale": torch(f"vid{i}.log_scale"),
    }
    for i in range(3)
  )


def factor_params(torch):
  frozen = Torch(torch.arrays, "param")  # no gradient: zeros are expected, see the test
  translator = tuple(
    torch.conv_norm(f"translator.encoder.{i}", f"translator.encoder.{i + 1}") for i in (0, 3, 6)
  )
  coder = {
    "encoder": tuple(frozen.conv(f"paraphraser.encoder.{i}") for i in (0, 3, 6)),
    "decoder": tuple(frozen.conv(f"paraphraser.decoder.{i}", transposed) for i in (0, 3, 6)),
  }
  if torch.prefix != "param_":
    coder = jax.tree.map(np.zeros_like, coder)
  return ({"paraphraser": coder, "translator": translator},)


def factor_state(arrays, after):
  names = [f"translator.encoder.{i}" for i in (0, 3, 6)]
  norms = [f"translator.encoder.{i + 1}" for i in (0, 3, 6)]
  pairs = zip(norms, names, strict=True)
  return (tuple(statistics(arrays, n, after=after, conv=c) for n, c in pairs),)


def review_params(torch):
  def level(i):
    return {
      "reduce": torch.conv_norm(f"abf{i}.conv1.0", f"abf{i}.conv1.1"),
      "attend": torch.conv(f"abf{i}.att_conv.0") if i < 2 else (),
      "expand": torch.conv_norm(f"abf{i}.conv2.0", f"abf{i}.conv2.1"),
    }

  return tuple(map(level, range(3)))


def review_state(arrays, after):
  return tuple(
    {
      "reduce": statistics(arrays, f"abf{i}.conv1.1", after=after),
      "expand": statistics(arrays, f"abf{i}.conv2.1", after=after),
    }
    for i in range(3)
  )


def embeds(torch):
  return {"student": torch.linear("embed_s.linear"), "teacher": torch.linear("embed_t.linear")}


def tall(tag):
  """A projector's parameter, which we keep with more rows than columns."""

  def params(torch):
    raw = torch(f"raw_{tag}")
    return {"moves": raw if raw.shape[0] >= raw.shape[1] else raw.T}

  return params


def with_heads(transform, **heads):
  """Passes classifiers as the training step would."""
  extras = {
    "student_params": {"classifier": heads.get("student")},
    "teacher_params": ({"classifier": heads["teacher"]},),
  }
  update = lambda *args: transform.update(*args, **extras)  # noqa: E731
  return transform._replace(update=update)


def head(arrays, network):
  return Torch(arrays, "param").linear(network)


def wasserstein(*args, given=False, **settings):
  def make(arrays):
    settings["cost"] = arrays["cost"] if given else None
    return with_heads(
      distill.wkd_l(*args, **settings), teacher={"kernel": arrays["teacher_kernel"]}
    )

  return make


def of_scales(scales):
  def make(arrays):
    return with_heads(
      distill.sdd(beta=6, scales=scales), student=head(arrays, "s"), teacher=head(arrays, "t")
    )

  return make


def always(transform):
  return lambda arrays: transform


CASES = {
  **{
    f"dkd_{tag}": Case("dkd", always(distill.dkd(alpha, beta, t)), "logits", f"_{tag}")
    for tag, alpha, beta, t in [
      ("a1_b8_T4", 1, 8, 4),
      ("a1_b6_T4", 1, 6, 4),
      ("a1_b0.5_T1", 1, 0.5, 1),
      ("a1_b0_T4", 1, 0, 4),
      ("a0_b1_T4", 0, 1, 4),
    ]
  },
  **{  # zju-SWJ/RLD at d54578f
    f"rld_a{a}_b{b}_T{t}_t{c}": Case(
      "rld",
      always(distill.rld(a, b, t, confidence_temperature=c)),
      "logits",
      f"_a{a}_b{b}_T{t}_t{c}",
    )
    for a, b, t, c in [(1, 8, 4, 1), (1, 0.5, 1, 1), (1, 0, 4, 2), (0, 1, 4, 1)]
  },
  **{  # zkxufo/TTM at fe457b3
    f"{name}_{exponent}": Case(
      "transformed", always(getattr(distill, name)(exponent)), "logits", f"_{name}_{exponent}"
    )
    for name in ("ttm", "wttm")
    for exponent in (0.1, 0.5)
  },
  # the CRLD authors' distiller, and sunshangquan/logit-standardization-KD at f6e5aa5
  "crld": Case("views", always(distill.crld(strong_confidence=0.7)), "logits", "_crld"),
  **{
    f"mlkd_lskd_{t}_{weight}": Case(
      "views",
      always(
        distill.chain(
          distill.scale(0.2, distill.cross_entropy()),
          distill.scale(weight, distill.mlkd_lskd(t)),
        )
      ),
      "logits",
      f"_mlkd_{t}_{weight}",
      params=lambda torch: ((), ()),
      state=lambda arrays, after: (ScaleState((), ()),) * 2,
    )
    for t, weight in [(2, 9), (4, 6)]
  },
  **{  # JiamingLv/WKD at 214cf88
    f"wkd_l_{tag}": Case("wkd_l", make, "logits", f"_{tag}")
    for tag, make in {
      "T4": wasserstein(60, 4),
      "T2_plain": wasserstein(10, 2, sharpen=0, regularization=0.1, iterations=5),
      "given": wasserstein(30, 4, sharpen=0, given=True),
    }.items()
  },
  **{
    file: Case(
      file,
      always(distill.wkd_f(ratio, grid=grid)),
      params=lambda torch: (torch.conv_norm("reg0.conv", "reg0.bn"),),
      state=lambda arrays, after: (statistics(arrays, "reg0.bn", after=after, conv="reg0.conv"),),
    )
    for file, ratio, grid in [("wkd_f", 4, 1), ("wkd_f_grid", 3, 2)]
  },
  "dcd": Case(  # giakoumoglou/distillers at a2ee80b
    "dcd",
    always(distill.dcd(4)),
    "pooled",
    params=lambda torch: {
      "student": torch.linear("embed_s"),
      "teacher": torch.linear("embed_t"),
      "log_scale": torch("tau"),
    },
  ),
  **{  # roymiles/vkd at 4b48050
    f"vkd_{tag}": Case(
      "vkd",
      always(distill.vkd()),
      "pooled",
      f"_{tag}",
      f"_{tag}",
      params=tall(tag),
      state=lambda arrays, after, tag=tag: arrays[f"param_base_{tag}"],
    )
    for tag in ("wide", "narrow", "square")
  },
  **{  # shicaiwei123/SDD-CVPR2024 at e412036
    f"sdd_{tag}": Case("sdd", of_scales(scales), tag=f"_{tag}")
    for tag, scales in {"124": (1, 2, 4), "12": (1, 2)}.items()
  },
  "dist": Case("dist", always(distill.dist()), "logits", "_b1_g1_tau1"),
  "dist_tau4": Case("dist", always(distill.dist(2, 2, 4)), "logits", "_b2_g2_tau4"),
  "lskd_soft": Case(
    "lskd",
    always(distill.scale(0.25, distill.lskd(2))),
    "logits",
    "_soft_T2",
    state=lambda arrays, after: ScaleState((), ()),
  ),
  "lskd_full": Case(
    "lskd",
    always(
      distill.chain(
        distill.scale(0.1, distill.cross_entropy()), distill.scale(9.0, distill.lskd(2))
      )
    ),
    "logits",
    "_full_T2_a0.1_b9",
    params=lambda torch: ((), ()),
    state=lambda arrays, after: (ScaleState((), ()),) * 2,
  ),
  "rkd": Case("rkd", always(distill.rkd()), "pooled"),
  "pkt": Case("pkt", always(distill.pkt()), "pooled"),
  "correlation": Case("correlation", always(distill.correlation(16)), "pooled", params=embeds),
  "correlation_plain": Case("correlation_plain", always(distill.correlation(None)), "pooled"),
  "hint": Case("hint", always(distill.fitnet(maps=(0,), regressor=False))),
  "hint_regressed": Case(
    "hint_convreg", always(distill.fitnet(maps=ALL)), params=hint_params, state=hint_state
  ),
  "attention": Case("attention", always(distill.attention(maps=ALL[:3]))),
  "nst": Case("nst", always(distill.nst(maps=ALL[:3]))),
  "similarity": Case("similarity", always(distill.similarity(maps=(0, 1)))),
  "fsp": Case("fsp", always(distill.fsp())),
  "ab": Case(
    "abound",
    always(distill.ab(maps=ALL[:3])),
    "preact",
    params=lambda torch: ((),) * 3,
    state=lambda arrays, after: ((),) * 3,
  ),
  "ab_connected": Case(
    "abound_connector",
    always(distill.ab(maps=ALL[:3])),
    "preact",
    params=connector_params,
    state=connector_state,
  ),
  **{
    f"factor_{size}_{order}": Case(
      "factor",
      always(distill.factor(order=order, translate=False)),
      tag=f"_{size}_p2_{order}",
      inputs=f"_{size}",
    )
    for size in ("eq", "slarge", "tlarge")
    for order in (1, 2)
  },
  "factor_full": Case(
    "factor_full", always(distill.factor()), params=factor_params, state=factor_state
  ),
  "vid": Case("vid", always(distill.vid(maps=ALL[:3])), params=vid_params),
  "kdsvd": Case("kdsvd", always(distill.kdsvd(maps=ALL[:3]))),
  "ofd": Case(
    "ofd",
    lambda arrays: distill.ofd(
      tuple(arrays[f"in_margin{i}"] for i in range(2)), maps=(0, 1), connector=False
    ),
    "preact",
    params=lambda torch: ((),) * 2,
    state=lambda arrays, after: {"statistics": ((),) * 2, "margins": (), "count": ()},
  ),
  "hcl": Case("reviewkd_hcl", always(distill.hcl(maps=ALL[:3]))),
  "review": Case(
    "reviewkd_full",
    always(distill.review(12, maps=ALL[:3], pooled=False)),
    "preact",
    params=review_params,
    state=review_state,
  ),
}


def maps_of(arrays, network, case, kind="in"):
  """The inputs of one network, or the gradients with respect to the student's."""
  prefix = {"in": f"in_{network}", "grad": "f64_grad_student"}[kind]
  tag = {"in": case.inputs, "grad": case.tag}[kind]
  if case.field in ("logits", "pooled"):
    return arrays[f"{prefix}{tag}"]
  return tuple(nhwc(arrays[f"{prefix}{i}{tag}"]) for i in ALL if f"{prefix}{i}{tag}" in arrays)


def endpoints(case, value):
  return Endpoints(**{"logits": jnp.zeros((1, 1)), case.field: value})


@pytest.mark.parametrize("name", CASES)
def test_loss_gradients_and_statistics_are_those_of_the_original(
  golden, assert_near, quick_jit, name
):
  case = CASES[name]
  arrays = golden(f"distill/{case.file}")
  transform = case.make(arrays)
  teachers = (endpoints(case, maps_of(arrays, "teacher", case)),)
  batch = {"label": arrays["in_target"].astype(np.int32)} if "in_target" in arrays else {}
  if case.file == "views":
    batch["view"] = np.repeat(np.eye(2, dtype=bool), len(batch["label"]) // 2, axis=0)
  params = case.params(Torch(arrays, "param"))
  state = case.state(arrays, False)
  student = maps_of(arrays, "student", case)
  made = jax.eval_shape(
    lambda: transform.init(jax.random.key(0), endpoints(case, student), teachers, batch)
  )
  jax.tree.map(lambda a, b: np.testing.assert_equal(a.shape, np.shape(b)), made, (params, state))

  @quick_jit
  def run(params, student):
    def objective(params, student):
      found = transform.update(params, state, endpoints(case, student), teachers, batch)
      return found[0], found[1]

    return jax.value_and_grad(objective, (0, 1), has_aux=True)(params, student)

  (loss, after), gradients = run(params, student)
  assert_near(loss, arrays[f"f64_loss{case.tag}"])
  expected = case.params(Torch(arrays, "gradparam")), maps_of(arrays, "student", case, "grad")
  jax.tree.map(assert_near, gradients, expected)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6),
    after,
    case.state(arrays, True),
  )


def test_the_parts_of_relational_distillation_are_those_of_the_original(
  golden, assert_near, quick_jit
):
  arrays = golden("distill/rkd")
  case = CASES["rkd"]
  student, teacher = (endpoints(case, arrays[f"in_{name}"]) for name in ("student", "teacher"))
  for part, weights in (("distance", (1, 0)), ("angle", (0, 1))):
    loss, _, _ = quick_jit(distill.rkd(*weights).update)((), (), student, (teacher,), {})
    assert_near(loss, arrays[f"loss_{part}"])


def test_the_paraphraser_reconstructs_as_the_original(golden, assert_near, quick_jit):
  arrays = golden("distill/factor_full")
  case = CASES["factor_full"]
  student, teacher = (
    endpoints(case, maps_of(arrays, name, case)) for name in ("student", "teacher")
  )
  params, state = factor_params(Torch(arrays, "param")), factor_state(arrays, False)
  loss, after, _ = quick_jit(distill.paraphrase().update)(params, state, student, (teacher,), {})
  assert_near(loss, arrays["paraphraser_init_loss"])
  jax.tree.map(np.testing.assert_array_equal, after, state)


def test_fused_maps_are_those_of_the_original(golden, assert_near, quick_jit):
  arrays = golden("distill/reviewkd_full")
  case = CASES["review"]
  pairs = zip(*(maps_of(arrays, name, case) for name in ("student", "teacher")), strict=True)
  params, state = review_params(Torch(arrays, "param")), review_state(arrays, False)
  fused, _ = quick_jit(fuse)(params, state, tuple(pairs))
  for i, x in enumerate(fused):
    assert_near(x, nhwc(arrays[f"fused{i}"]))


def test_the_classifier_of_the_regions_is_taught_as_in_the_original(golden, assert_near, quick_jit):
  arrays = golden("distill/sdd")
  student, teacher = (
    endpoints(CASES["sdd_124"], maps_of(arrays, name, CASES["sdd_124"]))
    for name in ("student", "teacher")
  )
  batch = {"label": arrays["in_target"].astype(np.int32)}

  @quick_jit
  @jax.grad
  def gradient(own):
    loss = with_heads(distill.sdd(beta=6), student=own, teacher=head(arrays, "t"))
    return loss.update((), (), student, (teacher,), batch)[0]

  found = gradient(head(arrays, "s"))
  assert_near(found["kernel"], arrays["f64_gradparam_s.weight_124"].T)
  assert_near(found["bias"], arrays["f64_gradparam_s.bias_124"])


def separable(torch):
  """Branches of two stages: one that halves its map, and one that keeps it."""
  names = [("p0.0.op.0", "p0.0.op.1", "p0.0.op.2"), ("p0.0.op.4", "p0.0.op.5", "p0.0.op.6")]
  block = {
    "depthwise": tuple(hwio(torch(f"{depthwise}.weight")) for depthwise, _, _ in names),
    "pointwise": tuple(torch.conv_norm(conv, norm) for _, conv, norm in names),
  }
  return (
    {"blocks": (block,), "classifier": torch.linear("p0.3")},
    {"blocks": (torch.conv("p1.0"),), "classifier": torch.linear("p1.3")},
  )


def test_branches_of_stages_follow_as_in_the_original(golden, assert_near, quick_jit):
  arrays = golden("distill/ofa")  # Hao840/OFAKD at f7bb896
  maps = tuple(nhwc(arrays[f"in_student{i}"]) for i in range(2))
  features = jnp.zeros((4, 7))
  student = Endpoints(arrays["in_student_logits"], features[:, :6], maps)
  teacher = Endpoints(arrays["in_teacher_logits"], features)
  batch = {"label": arrays["in_target"].astype(np.int32)}
  norms = [f"p0.0.op.{i}" for i in (2, 6)]
  params = separable(Torch(arrays, "param"))
  transform = distill.ofa(1.5, 2.0, maps=(0, 1))
  states = [
    ((tuple(statistics(arrays, n, after=after) for n in norms),), ((),)) for after in (False, True)
  ]
  made = jax.eval_shape(lambda: transform.init(jax.random.key(0), student, (teacher,), batch))
  jax.tree.map(
    lambda a, b: np.testing.assert_equal(a.shape, np.shape(b)), made, (params, states[0])
  )

  @quick_jit
  def run(params, student):
    def objective(params, student):
      return transform.update(params, states[0], student, (teacher,), batch)[:2]

    return jax.value_and_grad(objective, (0, 1), has_aux=True)(params, student)

  (loss, after), (of_params, of_student) = run(params, student)
  assert_near(loss, arrays["f64_loss"])
  jax.tree.map(assert_near, of_params, separable(Torch(arrays, "gradparam")))
  assert_near(of_student.logits, arrays["f64_grad_student_logits"])
  for i, found in enumerate(of_student.maps):
    assert_near(found, nhwc(arrays[f"f64_grad_student{i}"]))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), after, states[1]
  )
