"""Every public function says what it takes and gives; whether that is true, the type checker says."""

import ast
import pathlib

PACKAGE = pathlib.Path(__file__).parents[1] / "jaxcompress"


def public_functions(tree):
  """Functions of the module and methods of its classes that are part of what others may call."""
  for node in ast.walk(tree):
    is_class = isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    for child in node.body if is_class or isinstance(node, ast.Module) else ():
      if isinstance(child, ast.FunctionDef) and not child.name.startswith("_"):
        yield child


def gaps(function):
  arguments = function.args
  every = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
  every = [*every, *(a for a in (arguments.vararg, arguments.kwarg) if a is not None)]
  found = [a.arg for a in every if a.annotation is None and a.arg not in ("self", "cls")]
  return found + ["return"] * (function.returns is None)


def test_every_public_function_is_annotated():
  missing = {
    f"{path.relative_to(PACKAGE)}:{function.lineno} {function.name}": gaps(function)
    for path in PACKAGE.rglob("*.py")
    for function in public_functions(ast.parse(path.read_text()))
    if gaps(function)
  }
  assert not missing
