"""Docstrings speak reStructuredText where they link; this makes Markdown of it for the site."""

import re
from collections.abc import Iterator

import griffe

ROLE = re.compile(r":(?:class|func|meth|data|mod|attr):`([^`]+)`")
LINK = re.compile(r"`([^`<]+?)\s*<(https?://[^>]+)>`_")
CODE = re.compile(r"``(.+?)``", re.DOTALL)


def to_markdown(text: str, found: griffe.Object) -> str:
  """Roles become cross-references and links become Markdown's.

  A role's target is looked up as Python would, from the object outwards; one that the site does not
  show stays code.
  """

  def role(match: re.Match[str]) -> str:
    target = match[1].lstrip("~")
    label = target.rpartition(".")[2] if match[1].startswith("~") else target
    try:
      path = target if "." in target else found.resolve(target)
    except griffe.NameResolutionError:
      return f"`{label}`"
    return f'<autoref optional identifier="{path}"><code>{label}</code></autoref>'

  text = LINK.sub(lambda m: f"[{' '.join(m[1].split())}]({m[2]})", text)
  text = ROLE.sub(role, text)
  return CODE.sub(lambda m: f"`{' '.join(m[1].split())}`", text)


class Roles(griffe.Extension):
  """Rewrites every docstring once it is read, and tells functions from modules of the same name."""

  def on_package(self, *, pkg: griffe.Module, **kwargs: object) -> None:
    modules = list(self._rewritten(pkg))
    for module in modules:
      for name in module.exports or ():
        found = _target(module.members.get(name))
        if isinstance(found, griffe.Module) and name in found.members:
          module.members[name] = griffe.Alias(name, found.members[name], parent=module)

  def _rewritten(self, found: griffe.Object) -> Iterator[griffe.Module]:
    """The modules below, when their docstrings are rewritten."""
    if found.docstring:
      found.docstring.value = to_markdown(found.docstring.value, found)
    for member in found.members.values():
      if not member.is_alias:
        yield from self._rewritten(member)
    if isinstance(found, griffe.Module):
      yield found


def _target(member: griffe.Object | griffe.Alias | None) -> griffe.Object | None:
  """Returns the object that a name finally refers to, if it can be read without running anything."""
  try:
    return member.final_target if isinstance(member, griffe.Alias) else member
  except griffe.AliasResolutionError:
    return None
