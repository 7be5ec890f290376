"""Options that follow from the fields of a dataclass, so that a setting is spelled in one place."""

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer

Command = TypeVar("Command", bound=Callable[..., None])


def with_options(kind: type, after: str, **defaults: str) -> Callable[[Command], Command]:
    """Give a command one option per field of a dataclass; what the user sets arrives in its `**keywords`.

    A field's metadata says its "help"; its type says what it takes. All options default to None.

    Args:
        kind: the dataclass.
        after: the command's own option that they follow.
        defaults: field → the default that the help shows; "per data set" where nothing is said.
    """

    def decorate(command: Command) -> Command:
        hints = get_type_hints(kind)
        options = [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[
                    _plain(hints[field.name]) | None,
                    typer.Option(help=field.metadata["help"], show_default=defaults.get(field.name, "per data set")),
                ],
            )
            for field in fields(kind)
        ]
        signature = inspect.signature(command)
        own = [each.replace(kind=each.KEYWORD_ONLY) for each in signature.parameters.values()][:-1]
        at = next(index for index, each in enumerate(own, start=1) if each.name == after)
        # typer reads both.
        command.__signature__ = signature.replace(parameters=[*own[:at], *options, *own[at:]])  # type: ignore[attr-defined]
        command.__annotations__ |= {option.name: option.annotation for option in options}
        return command

    return decorate


def _plain(hint: Any) -> Any:
    """Return a type without its checks and without None."""
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    kinds = [each for each in get_args(hint) if each is not type(None)] if type(None) in get_args(hint) else [hint]
    return kinds[0]
