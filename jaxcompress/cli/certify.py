"""``jaxcompress certify``: certificates of model files, and their check."""

from typing import Any

import typer

from jaxcompress.cli.parameters import NEEDED, Argument, Parameter, command


@command(
  model=Argument(
    str,
    "A .tflite, .onnx, .stablehlo or .jcz file, a folder of C, or a run's folder OUT: all its files.",
    NEEDED,
  ),
  images=Parameter(
    str,
    "A folder of pictures, data as for compress, such as glyphs, or an .npy file [the run's data; with"
    " --check: inputs.npy beside the certificate].",
  ),
  out=Parameter(str, "The certificate [certificate.json beside MODEL]."),
  processors=Parameter(
    str,
    "Emulated processors between commas, such as cortex-a53,cortex-m4, or none: this machine alone"
    " [seven usual ones; with --check: the certificate's].",
  ),
  count=Parameter(int, "At most so many images, the first ones [16]."),
  seed=Parameter(int, "Random seed of the splits of the data [the run's, or 0]."),
  check=Parameter(
    str,
    "Check this certificate: repeat the runs that this machine can do, and write nothing.",
    names=("--check",),
    more={"metavar": "CERTIFICATE"},
  ),
  force=Parameter(bool, "Replace files that exist.", False),
)
def certify(model: str, images: str | None, check: str | None, **given: Any) -> None:
  """Write a certificate: hashes of a model, of images, and of the logits that every runtime and
  processor gives for them; or check one.

  Beside it are written inputs.npy, certificate.html and check.py, which computes the same hash with
  LiteRT alone. Exit code 0: all that ran is equal; 1: something differs, or nothing was run.
  """
  from rich.console import Console

  from jaxcompress.cli.commands import keep_compiled_programs
  from jaxcompress.pipeline import certifying
  from jaxcompress.report.certified import certificate_table, check_table
  from jaxcompress.terminal import say

  notes, console = Console(stderr=True), Console()
  if check is not None:
    processors = given.pop("processors")
    for name, value in given.items():
      if value not in (None, False):
        raise ValueError(
          f"{name}: {value} is given beside --check, which takes only images and processors; leave it out."
        )
    keep_compiled_programs()
    found = certifying.check_model(check, model, images, processors=processors, console=notes)
    console.print(check_table(found))
    say(console, found.sentence)
    raise typer.Exit(0 if found.equal else 1)
  keep_compiled_programs()
  certificate, path, program = certifying.certify_model(model, images, console=notes, **given)
  console.print(certificate_table(certificate))
  say(console, certificate.sentence)
  if program is not None:
    say(console, f"to repeat it elsewhere, with LiteRT alone, {path.with_name('check.py')}:")
    console.print(program, markup=False, highlight=False, soft_wrap=True)
  say(console, f"certificate: {path}")
  raise typer.Exit(0 if certificate.verdict == "equal" else 1)
