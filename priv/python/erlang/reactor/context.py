"""What a context does besides serving protocols: it is made ready, and runs code that it is given.

Everything here is called by the native side, on the context's own thread. Code runs in modules of
the context's own, so that contexts which share an interpreter do not see each other's names: one that all
share who ask for it, and one for each process that does not, which begins as a copy of the first.
"""

import importlib
import ipaddress
import itertools
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

# What a module has of itself, and what is never another's.
_OWN = frozenset(vars(types.ModuleType("any")))

# How many streams a context has open at most.
_STREAMS = 1024


class _Context:
    def __init__(self, number, paths):
        self.paths = paths
        self.module = _module_named(f"reactor_context_{number}")
        # Of processes, by what names them.
        self.modules = {}
        self.numbers = itertools.count(1)
        # By number, with whose they are.
        self.streams = {}
        # Modules that are known to be those of its own paths.
        self.checked = set()
        self.tasks = None

    def module_of(self, process):
        """Where the code of a process runs; None stands for those that share a place."""
        if process is None:
            return self.module
        module = self.modules.get(process)
        if module is None:
            module = _module_named(f"{self.module.__name__}_{next(self.numbers)}")
            names = vars(self.module).items()
            vars(module).update({name: value for name, value in names if name not in _OWN})
            self.modules[process] = module
        return module

    def forget(self, process):
        """What that process has here ends with it. Returns its streams."""
        module = self.modules.pop(process, None)
        if module is not None:
            _forget(module)
        numbers = [number for number, (owner, _) in self.streams.items() if owner == process]
        return [self.streams.pop(number)[1] for number in numbers]

    def end(self):
        for module in (self.module, *self.modules.values()):
            _forget(module)


def _module_named(name):
    # Found here like any other, by dataclasses and pickle for example.
    module = sys.modules[name] = types.ModuleType(name, "Code that was given to a context.")
    return module


def _forget(module):
    sys.modules.pop(module.__name__, None)
    _by_module.pop(module.__name__, None)


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


def run(code, process):
    """Executes statements for a process. A common indentation is removed before."""
    _exec(code, "<exec>", process)


def evaluate(expression, variables, process):
    """The value of an expression, in which variables may be used that are nowhere else."""
    names = vars(_current().module_of(process))
    if variables:
        # One scope for both: functions within the expression see no locals.
        names = {**names, **_keywords(variables)}
    return eval(compile(expression.strip(), "<eval>", "eval"), names)


def call(module, function, args, kwargs, process):
    """Calls a function, which may be dotted, of a module. What it returns may have to be awaited.

    ``"__main__"`` is where :func:`run` executes for that process. An IP address as Erlang has it, a
    tuple of numbers, becomes text for a parameter that is annotated as ``str``.
    """
    target = _module(module, process)
    for part in function.split(".") if "." in function else (function,):
        target = getattr(target, part)
    for arg in args:
        if type(arg) is tuple and _is_address(arg):
            args = _with_text(target, args)
            break
    return target(*args, **_keywords(kwargs)) if kwargs else target(*args)


def tasks():
    """The :class:`erlang.aio.Tasks` of this context, made when they are first asked for."""
    context = _current()
    if context.tasks is None:
        # Not before it is needed: asyncio is large.
        from erlang import aio

        context.tasks = aio.Tasks(_reactor.task_put)
    return context.tasks


def run_to_its_end(awaitable):
    """What an awaitable comes to, awaited here and now, for a call that another one waits for.

    Raises:
        RuntimeError: A coroutine waits for it, whose loop cannot go on meanwhile.
    """
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_awaited(awaitable))
    if hasattr(awaitable, "close"):
        awaitable.close()
    raise RuntimeError(
        "a coroutine waits for this one, and blocks the loop that would run it: "
        "use 'await erlang.async_call(...)' there"
    )


async def _awaited(awaitable):
    return await awaitable


def stream(owner, operation, *arguments):
    """Opens a stream of what another function of this module returns: its number.

    Raises:
        TypeError: That is nothing to iterate over.
        RuntimeError: The context has as many as it may have.
    """
    source = {"call": call, "evaluate": evaluate}[operation](*arguments)
    if hasattr(type(source), "__await__"):
        return _stream_later(owner, source)
    return _stream(owner, source)


def take(number, most):
    """The next items of a stream, and whether it is over: see :mod:`erlang.streams`.

    Raises:
        LookupError: It was closed.
    """
    try:
        _, found = _current().streams[number]
    except KeyError:
        raise LookupError(f"stream {number} is closed") from None
    return found.take(most)


def close_stream(number):
    """Closes a stream, if it is open."""
    _, found = _current().streams.pop(number, (None, None))
    return found and found.close()


def forget(processes):
    """Forgets the names of processes that have ended, and closes their streams."""
    context = _current()
    open_ones = [each for process in processes for each in context.forget(process)]
    later = []
    for each in open_ones:
        try:
            closing = each.close()
        except Exception:
            # That of a generator that nobody has any more.
            sys.excepthook(*sys.exc_info())
        else:
            later += [closing] if closing is not None else []
    if later:
        # Nobody waits for it.
        tasks().keep(_close_all(later))


async def _close_all(closings):
    for closing in closings:
        try:
            await closing
        except Exception:
            sys.excepthook(*sys.exc_info())


def _stream(owner, source):
    context = _current()
    if len(context.streams) >= _STREAMS:
        raise RuntimeError(f"{_STREAMS} streams are open in this context: close some")
    # Not before it is needed: asyncio is large.
    from .. import streams

    number = next(context.numbers)
    context.streams[number] = (owner, streams.open_stream(source))
    return number


async def _stream_later(owner, source):
    return _stream(owner, await source)


def _current():
    return _contexts[_reactor.context()]


def _exec(code, name, process=None):
    context = _current()
    # For what it imports; another context may have put its own before.
    if sys.path[: len(context.paths)] != context.paths:
        _put_first(context.paths)
    code = compile(textwrap.dedent(code), name, "exec")
    exec(code, vars(context.module_of(process)))


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


def _module(name, process):
    context = _current()
    if name == "__main__":
        return context.module_of(process)
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
