"""What a context does besides serving protocols: it is made ready, and runs code that it is given.

Everything here is called by the native side, on the context's own thread. Code runs in a module of
the context's own, so that contexts which share an interpreter do not see each other's names.
"""

import importlib
import ipaddress
import os
import sys
import textwrap
import types

import _reactor

from . import environment
from .factory import (
    _by_context,
    _by_module,
    _end_context,
    _import,
    _put_first,
    _refuse_other_file,
    _resolve,
)
from .signature import signature

_contexts = {}


class _Context:
    def __init__(self, number, paths):
        name = f"reactor_context_{number}"
        self.paths = paths
        # Found here like any other, by dataclasses and pickle for example.
        self.module = sys.modules[name] = types.ModuleType(
            name, "Code that was given to a context."
        )
        # Modules that are known to be those of its own paths.
        self.checked = set()

    def end(self):
        sys.modules.pop(self.module.__name__, None)
        _by_module.pop(self.module.__name__, None)


def begin(paths, venv, requirements, setup):
    """Makes a context ready, before it does anything else.

    Args:
        paths: Directories to import from before all others.
        venv: The directory of a virtual environment, or None.
        requirements: What has to be installed, as pip writes it.
        setup: Pieces of code to run.

    Raises:
        ImportError: The environment does not go with the interpreter's, or a requirement is not met.
        ValueError: A requirement is none.

    What the code raises is raised as it is; a SyntaxError without the line that it is about.
    """
    paths = list(dict.fromkeys(map(os.path.abspath, paths)))
    number = _reactor.context()
    _contexts[number] = _Context(number, paths)
    _put_first(paths)
    importlib.invalidate_caches()
    if venv is not None:
        environment.use(venv)
    environment.check(requirements)
    for code in setup:
        _set_up(code)


def end(number):
    """Forgets a context. Its number may be used again."""
    context = _contexts.pop(number, None)
    if context is not None:
        context.end()
    _end_context(number)


def use_factory(spec):
    """Makes ``"module:factory"`` the factory of this context."""
    _by_context[_reactor.context()] = _resolve(spec, _current().paths)


def run(code):
    """Executes statements. A common indentation is removed before."""
    _exec(code, "<exec>")


def evaluate(expression, variables):
    """The value of an expression, in which variables may be used that are not the context's."""
    names = vars(_current().module)
    if variables:
        # One scope for both: functions within the expression see no locals.
        names = {**names, **_keywords(variables)}
    return eval(compile(expression.strip(), "<eval>", "eval"), names)


def call(module, function, args, kwargs):
    """Calls a function, which may be dotted, of a module; what is awaited is awaited here.

    ``"__main__"`` is the module that :func:`run` executes in. An IP address as Erlang has it, a
    tuple of numbers, becomes text for a parameter that is annotated as ``str``.
    """
    target = _module(module)
    for part in function.split(".") if "." in function else (function,):
        target = getattr(target, part)
    for arg in args:
        if type(arg) is tuple and _is_address(arg):
            args = _with_text(target, args)
            break
    result = target(*args, **_keywords(kwargs)) if kwargs else target(*args)
    if isinstance(result, types.CoroutineType):
        # Not before it is needed: it is large.
        import asyncio

        return asyncio.run(result)
    return result


def _current():
    return _contexts[_reactor.context()]


def _exec(code, name):
    context = _current()
    # For what it imports; another context may have put its own before.
    if sys.path[: len(context.paths)] != context.paths:
        _put_first(context.paths)
    exec(compile(textwrap.dedent(code), name, "exec"), vars(context.module))


def _set_up(code):
    try:
        _exec(code, "<setup>")
        return
    except SyntaxError as error:
        if error.filename != "<setup>":
            raise
        # It is logged, and the line may hold a password.
        hidden = type(error)(error.msg, (error.filename, error.lineno, error.offset, None))
    raise hidden


def _module(name):
    context = _current()
    if name == "__main__":
        return context.module
    if name in context.checked:
        # Most often it is there: this is asked for every call.
        module = sys.modules.get(name)
        if module is not None:
            return module
    else:
        _put_first(context.paths)
        importlib.invalidate_caches()
        _refuse_other_file(name, context.paths)
        _import(name, context.paths)
        # A thread that put its own paths first in the meantime may have won.
        _refuse_other_file(name, context.paths)
        context.checked.add(name)
    return importlib.import_module(name)


def _keywords(names):
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"names of variables are text, not {name!r}")
    return names


def _with_text(function, args):
    found = signature(function)
    if found is None:
        return args
    args = list(args)
    for index, parameter in enumerate(found.parameters.values()):
        if index < len(args) and _is_str(parameter.annotation) and _is_address(args[index]):
            args[index] = _text(args[index])
    return args


def _is_str(annotation):
    return annotation is str or (isinstance(annotation, str) and annotation == "str")


def _is_address(arg):
    limit = {4: 0xFF, 8: 0xFFFF}.get(len(arg)) if isinstance(arg, tuple) else None
    return limit is not None and all(type(part) is int and 0 <= part <= limit for part in arg)


def _text(address):
    if len(address) == 4:
        return str(ipaddress.IPv4Address(bytes(address)))
    return str(ipaddress.IPv6Address(b"".join(part.to_bytes(2, "big") for part in address)))
