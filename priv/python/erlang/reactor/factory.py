"""Who makes the protocols: factories, and how the name of one is resolved.

Contexts of one interpreter share their modules. So a factory is kept by context, and by the module
that set it as well: when a second context asks for a module that was imported before, the module's
code does not run again, but its factory is still known.
"""

import importlib
import importlib.machinery
import os
import sys
import threading

import _reactor

from . import reports


class _Factories(dict):
    """Factories by context; None stands for threads that no context owns."""

    def __setitem__(self, context, factory):
        super().__setitem__(context, factory)
        # What is handed to a context without one is refused at once.
        _reactor.factory_set()


_by_context = _Factories()
_by_module = {}
_path_lock = threading.Lock()


def set_protocol_factory(factory):
    """Sets what makes the protocol of each new connection.

    Called from a context's thread, as while a context imports a module, it concerns that context
    alone; elsewhere it sets what contexts without a factory of their own use.

    Args:
        factory: A :class:`Protocol` subclass, or any callable that takes no argument and returns
            a new protocol each time.

    Raises:
        TypeError: ``factory`` cannot be called.

    Example::

        reactor.set_protocol_factory(Echo)
        reactor.set_protocol_factory(lambda: Echo(greeting=b"hello"))
    """
    if not callable(factory):
        raise TypeError(f"a protocol factory is a callable, not {factory!r}")
    _by_context[_reactor.context()] = factory
    module = sys._getframe(1).f_globals.get("__name__")
    if module is not None:
        _by_module[module] = factory


def describe(factory):
    """How to call a factory in an error."""
    module = getattr(factory, "__module__", None)
    name = getattr(factory, "__qualname__", None)
    return f"{module}.{name}" if module and name else repr(factory)


def current_factory():
    """The factory of the calling thread's context, or else the interpreter's."""
    factory = _by_context.get(_reactor.context()) or _by_context.get(None)
    if factory is None:
        raise RuntimeError("no protocol factory is set: call erlang.reactor.set_protocol_factory")
    return factory


def _own_factory(latest):
    """What makes the protocols of descriptors that are handed to the calling thread's context.

    It is what was set there; or else ``latest``, which was loaded there by name; or else the
    interpreter's.
    """
    return _by_context.get(_reactor.context()) or latest or current_factory()


def _end_context(context):
    """Forgets the factory of a context that ended: its number may be used again.

    Called on its thread, which says the last of what it has to say.
    """
    _by_context.pop(context, None)
    reports.flush()


def _resolve(spec, paths):
    """The factory that ``"module:factory"``, or ``"module"`` by set_protocol_factory, names.

    Args:
        spec: The part after the colon may be dotted.
        paths: Directories to import from before all others.

    Raises:
        ValueError: ``spec`` does not look like that.
        ModuleNotFoundError: There is no such module.
        ImportError: It, or a package that it is in, is loaded from another file already.
        AttributeError: It has no such attribute.
        LookupError: It was to set a factory and did not.
        TypeError: The attribute cannot be called.

    What the module raises while it is imported is raised as it is.
    """
    name, colon, attribute = spec.partition(":")
    parts = name.split(".") + (attribute.split(".") if colon else [])
    if not all(map(str.isidentifier, parts)):
        raise ValueError(f"expected 'module:factory' or 'module', not {spec!r}")
    paths = [os.path.abspath(path) for path in paths]
    _put_first(paths)
    # A file that was written a moment ago may be missing in the listings that importlib keeps.
    importlib.invalidate_caches()
    _refuse_other_file(name, paths)
    context = _reactor.context()
    before = _by_context.get(context)
    try:
        module = _import(name, paths)
        # A thread that put its own paths first in the meantime may have won.
        _refuse_other_file(name, paths)
        return _attribute(module, attribute) if colon else _set_by(name, context, before)
    except BaseException:
        # What a module sets before it fails is of no use.
        _by_context.pop(context, None)
        if before is not None:
            _by_context[context] = before
        raise


def _set_by(name, context, before):
    factory = _by_module.get(name)
    if factory is None and _by_context.get(context) is not before:
        # The import set it by a function of another module.
        factory = _by_module[name] = _by_context[context]
    if factory is None:
        raise LookupError(
            f"module {name!r} did not call erlang.reactor.set_protocol_factory when it was "
            f"imported; name its factory as '{name}:factory', or let it call that"
        )
    _by_context.setdefault(context, factory)
    return factory


def _put_first(paths):
    paths = list(dict.fromkeys(paths))
    with _path_lock:
        sys.path[:] = paths + [path for path in sys.path if path not in paths]


def _import(name, paths):
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # A module that exists, but imports one that does not, says it better itself.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        where = ", ".join(paths) or "no directory"
        raise ModuleNotFoundError(
            f"no module named {error.name!r} in {where}, nor anywhere else on sys.path",
            name=error.name,
        ) from None


def _refuse_other_file(name, paths):
    """Raises ImportError if ``paths`` have another file for a module that is loaded.

    Two listeners whose directories both have a module of one name would otherwise, in one
    interpreter, silently get the protocol of whichever came first.
    """
    search = paths
    prefix = ""
    for part in name.split("."):
        prefix += part
        spec = importlib.machinery.PathFinder.find_spec(prefix, search)
        if spec is None:
            return
        loaded = getattr(sys.modules.get(prefix), "__file__", None)
        if loaded and spec.has_location and not _same_file(loaded, spec.origin):
            raise ImportError(
                f"module {prefix!r} is already loaded from {loaded}, so {spec.origin} cannot be: "
                "one interpreter has one module of a name; rename one of them",
                name=prefix,
                path=spec.origin,
            )
        if spec.submodule_search_locations is None:
            return
        search = list(spec.submodule_search_locations)
        prefix += "."


def _same_file(one, other):
    return os.path.realpath(one) == os.path.realpath(other)


def _attribute(module, attribute):
    value = module
    path = module.__name__
    for part in attribute.split("."):
        try:
            value = getattr(value, part)
        except AttributeError:
            names = [n for n, v in vars(value).items() if n[0] != "_" and callable(v)]
            raise AttributeError(
                f"{path} ({getattr(module, '__file__', 'no file')}) has no attribute {part!r}; "
                f"it has {', '.join(sorted(names)[:20]) or 'nothing that can be called'}"
            ) from None
        path += f".{part}"
    if not callable(value):
        raise TypeError(f"{path} is no protocol factory: {type(value).__name__} is not callable")
    return value
