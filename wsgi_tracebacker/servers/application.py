"""Find an application by what stands in a configuration, and wrap it if nobody has yet.

Knows ``module:name`` and its relatives. Refuses to catch what goes wrong inside the application's own module: that
comes through as it is.
"""

from __future__ import annotations

import ast
import importlib
from typing import TYPE_CHECKING, Any

from wsgi_tracebacker.errors import ConfigurationError
from wsgi_tracebacker.middleware import TracebackerMiddleware, settings_of

if TYPE_CHECKING:
    from types import ModuleType

    from _typeshed.wsgi import WSGIApplication

#: What servers take where only a module is named (gunicorn, uWSGI, mod_wsgi).
_DEFAULT_NAME = "application"

_EXAMPLES = "mysite.wsgi:application, package.module:object.attribute or mysite:create_app()"


def find(target: str, name: str = "the application") -> Any:
    """The object that ``module:name`` names; also ``module``, ``module:object.attribute`` and ``module:factory()``.

    A factory is called with what stands between its parentheses, which has to be literal.

    :param name: what the target was read from, for the one line of a ConfigurationError.
    :raises ConfigurationError: it names nothing.
    """
    module_name, colon, expression = (part.strip() for part in target.partition(":"))
    path, call = _parsed(target, expression if colon else _DEFAULT_NAME, name)
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise ConfigurationError(f"{name} must be as in {_EXAMPLES}, not {target!r}")
    found: Any = _imported(module_name, name)
    for index, attribute in enumerate(path):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            owner = ":".join((module_name, ".".join(path[:index]))).rstrip(":")
            raise ConfigurationError(
                f"{name} is {target!r}, and {owner} has no {attribute!r}; {_similar(found, attribute)}"
            ) from None
    if call is None:
        return found
    if not callable(found):
        raise ConfigurationError(f"{name} is {target!r}, and that cannot be called; leave the parentheses out")
    arguments, keywords = call
    return found(*arguments, **keywords)


def find_application(target: str, name: str) -> WSGIApplication:
    """The same for what has to be a WSGI application."""
    found = find(target, name)
    if not callable(found):
        raise ConfigurationError(
            f"{name} is {target!r}, and that is no WSGI application but {_short(found)}; name the callable, as in"
            f" {_EXAMPLES}"
        )
    application: WSGIApplication = found
    return application


def wrapped(app: WSGIApplication, **options: Any) -> WSGIApplication:
    """``app`` in a TracebackerMiddleware, unless its own code put it into one."""
    return app if settings_of(app) is not None else TracebackerMiddleware(app, **options)


def _parsed(target: str, expression: str, name: str) -> tuple[list[str], tuple[list[Any], dict[str, Any]] | None]:
    """The attributes to follow, and what to call the last one with; None: do not call it."""
    mistake = ConfigurationError(f"{name} must be as in {_EXAMPLES}, not {target!r}")
    try:
        node = ast.parse(expression, mode="eval").body
    except (SyntaxError, ValueError):
        raise mistake from None
    call = None
    if isinstance(node, ast.Call):
        try:
            arguments = [ast.literal_eval(argument) for argument in node.args]
            call = (
                arguments,
                {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords if keyword.arg},
            )
        except (ValueError, TypeError):
            raise ConfigurationError(
                f"{name} is {target!r}: a factory's arguments must be literal, as in f(1, 'a')"
            ) from None
        if any(keyword.arg is None for keyword in node.keywords):
            raise mistake
        node = node.func
    path: list[str] = []
    while isinstance(node, ast.Attribute):
        path.insert(0, node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        raise mistake
    return [node.id, *path], call


def _imported(module_name: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # Only the module that was named, or a package that it is in: one that the application misses is its own affair.
        missing = error.name
        if missing is None or not f"{module_name}.".startswith(f"{missing}."):
            raise
        raise ConfigurationError(
            f"{name} names the module {module_name!r}, and there is no {missing!r}; start the server in the folder of"
            " the project, or add that to PYTHONPATH"
        ) from None


def _similar(owner: object, attribute: str) -> str:
    # Not above: it is needed for a mistake only.
    import difflib  # noqa: PLC0415

    names = difflib.get_close_matches(attribute, [each for each in dir(owner) if not each.startswith("_")], 1)
    return f"did you mean {names[0]!r}?" if names else f"name what is there, as in {_EXAMPLES}"


def _short(value: object) -> str:
    return f"a {type(value).__name__}"
