"""What a function takes."""

import inspect
import sys

if sys.version_info >= (3, 14):
    from annotationlib import Format

    # Names that only a type checker imports are not there to be evaluated.
    _HOW = {"annotation_format": Format.FORWARDREF}
else:
    _HOW = {}


def signature(function):
    """The signature of a function; None where that cannot be found out, for whatever reason."""
    try:
        return inspect.signature(function, **_HOW)
    except Exception:
        return None
