"""Finds an application by its name in a configuration (``module:name``), and wraps it unless it is wrapped already.

Exceptions that the application's own module raises are not caught.
"""

from __future__ import annotations

import ast
import importlib
from typing import TYPE_CHECKING, Any

from wsgi_tracebacker.errors import ConfigurationError
from wsgi_tracebacker.middleware import TracebackerMiddleware, settings_of
from wsgi_tracebacker.worker.options.settings import nearest

if TYPE_CHECKING:
    from types import ModuleType

    from _typeshed.wsgi import WSGIApplication

#: The name that servers use if only a module is given (gunicorn, uWSGI, mod_wsgi).
_DEFAULT_NAME = "application"

_EXAMPLES = "mysite.wsgi:application, package.module:object.attribute or mysite:create_app()"


def find(target: str, name: str = "the application") -> Any:
    """Import what ``module:name`` names; also ``module``, ``module:object.attribute`` and ``module:factory()``.

    A factory's arguments have to be literal.

    :param name: the option that the target was read from, for the message of a ConfigurationError.
    :raises ConfigurationError: there is no such module or object.
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
    """Import a WSGI application, as find() does."""
    found = find(target, name)
    if not callable(found):
        raise ConfigurationError(
            f"{name} is {target!r}, and that is no WSGI application but a {type(found).__name__};"
            f" name the callable, as in {_EXAMPLES}"
        )
    application: WSGIApplication = found
    return application


def wrapped(app: WSGIApplication, **options: Any) -> WSGIApplication:
    """Wrap ``app`` in a TracebackerMiddleware, unless its own code has done so."""
    return app if settings_of(app) is not None else TracebackerMiddleware(app, **options)


def _parsed(target: str, expression: str, name: str) -> tuple[list[str], tuple[list[Any], dict[str, Any]] | None]:
    """Parse an expression into its names, and the arguments of the call; None: it is no call."""
    mistake = ConfigurationError(f"{name} must be as in {_EXAMPLES}, not {target!r}")
    try:
        node = ast.parse(expression, mode="eval").body
    except (SyntaxError, ValueError):
        raise mistake from None
    call = None
    if isinstance(node, ast.Call):
        try:
            arguments = [ast.literal_eval(argument) for argument in node.args]
            keywords = {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords if keyword.arg}
        except (ValueError, TypeError):
            raise ConfigurationError(
                f"{name} is {target!r}: a factory's arguments must be literal, as in f(1, 'a')"
            ) from None
        if any(keyword.arg is None for keyword in node.keywords):
            raise mistake
        call = arguments, keywords
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
        # A module that the application itself imports, and that is missing, is the application's own error.
        missing = error.name
        if missing is None or not f"{module_name}.".startswith(f"{missing}."):
            raise
        raise ConfigurationError(
            f"{name} names the module {module_name!r}, and there is no {missing!r}; start the server in the folder of"
            " the project, or add that to PYTHONPATH"
        ) from None


def _similar(owner: object, attribute: str) -> str:
    name = nearest(attribute, (each for each in dir(owner) if not each.startswith("_")))
    return f"did you mean {name!r}?" if name is not None else f"name what is there, as in {_EXAMPLES}"
