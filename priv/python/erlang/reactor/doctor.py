"""What :mod:`Reactor.Python.Doctor` is told of an interpreter."""

import importlib
import importlib.metadata
import os
import sys
import sysconfig


def facts():
    """What there is to know of this Python, as pairs of strings. What does not apply is empty."""
    free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    return [
        ("version", sys.version.split(" ")[0]),
        ("executable", sys.executable or ""),
        ("prefix", sys.prefix),
        ("base_prefix", sys.base_prefix),
        ("venv", sys.prefix if sys.prefix != sys.base_prefix else ""),
        ("gil", "free_threaded" if free_threaded else "gil"),
        ("path", os.pathsep.join(sys.path)),
    ]


def try_import(name):
    """Imports a module.

    Returns:
        ``(True, version)``, where the version is empty if the module has none; or ``(False, why)``.
    """
    try:
        module = importlib.import_module(name)
    except BaseException as error:
        return False, _described(error)
    return True, _version(module, name)


def _version(module, name):
    try:
        version = getattr(module, "__version__", None)
        if version is None:
            version = importlib.metadata.version(name.partition(".")[0])
        return _plain(version)
    except BaseException:
        return ""


def _described(error):
    kind = type(error).__name__
    try:
        return f"{kind}: {_plain(error)}"
    except BaseException:
        return kind


def _plain(value):
    """As text that Elixir can be given: surrogates are spelled out."""
    return str(value).encode("utf-8", "backslashreplace").decode()
