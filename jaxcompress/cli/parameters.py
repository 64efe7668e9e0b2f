"""Parameters of commands as tables, from which typer makes options and arguments."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import typer

NEEDED = inspect.Parameter.empty  # as a default


class Parameter(NamedTuple):
  """An option or an argument of a command.

  Attributes:
    kind: of its value; flags are bool.
    help: a sentence about it.
    default: None where a command finds out for itself; :data:`NEEDED` where it must be given.
    info: of typer, which makes an option or an argument.
    names: such as ``--flip/--no-flip``; none: that of the parameter.
    more: further options of typer.
  """

  kind: type
  help: str
  default: Any = None
  info: Callable[..., Any] = typer.Option
  names: tuple[str, ...] = ()
  more: dict[str, Any] = {}  # noqa: RUF012  # it is never changed

  def signature(self, name: str) -> inspect.Parameter:
    """As that of a function."""
    flag = (f"--{name.replace('_', '-')}",) if self.kind is bool else ()
    info = self.info(*(self.names or flag), help=self.help, **self.more)
    kind = self.kind | None if self.default is None else self.kind
    return inspect.Parameter(
      name, inspect.Parameter.KEYWORD_ONLY, default=self.default, annotation=Annotated[kind, info]
    )


Argument = functools.partial(Parameter, info=typer.Argument)


def command(**parameters: Parameter) -> Callable[[Callable[..., None]], Any]:
  """A decorator that gives a function parameters of the command line.

  Examples:
    >>> @command(width=Parameter(float, "Width multiplier."))
    ... def show(**given):
    ...   print(given)
    >>> show(width=0.5), list(inspect.signature(show).parameters)
    {'width': 0.5}
    (None, ['width'])
  """

  def decorate(run: Callable[..., None]) -> Any:
    @functools.wraps(run)
    def call(**given: Any) -> None:
      run(**given)

    found = [parameter.signature(name) for name, parameter in parameters.items()]
    call.__signature__ = inspect.Signature(found)  # type: ignore[attr-defined]
    call.__annotations__ = {}
    return call

  return decorate
