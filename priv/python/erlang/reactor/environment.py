"""Virtual environments and requirements of contexts.

The first context decides in which environment the main interpreter runs. Others add theirs to it, as
long as no package is in two versions: contexts of one interpreter share its modules.
"""

import importlib
import importlib.metadata
import os
import re
import site
import sys
import sysconfig

from .factory import _path_lock

# Where it is that reads requirements: a package of its own, or a copy that an installer brings.
_PACKAGING = ("packaging", "pip._vendor.packaging", "setuptools._vendor.packaging")

# Every environment has these, for itself.
_INSTALLERS = {"pip", "setuptools", "wheel"}


def use(venv):
    """Has modules be found in a virtual environment that is of this version of Python.

    Raises:
        ImportError: It has another version of a package than what the interpreter runs in.
    """
    if os.path.realpath(venv) == os.path.realpath(sys.prefix):
        return
    base = {"base": venv, "platbase": venv}
    places = (sysconfig.get_path(name, "posix_prefix", base) for name in ("purelib", "platlib"))
    directories = list(dict.fromkeys(places))
    with _path_lock:
        if all(directory in sys.path for directory in directories):
            return
        here = _versions(importlib.metadata.distributions())
        there = _versions(importlib.metadata.distributions(path=directories))
        conflicts = [
            f"{name} {version} (here: {here[name]})"
            for name, version in sorted(there.items())
            if here.get(name, version) != version and name not in _INSTALLERS
        ]
        if conflicts:
            raise ImportError(
                f"{venv} cannot be used: this interpreter runs in {sys.prefix}, and one interpreter "
                f"has one version of a package. It has {', '.join(conflicts)}"
            )
        for directory in directories:
            site.addsitedir(directory)
    importlib.invalidate_caches()


def check(requirements):
    """Raises ImportError if not everything is installed that ``requirements`` name.

    Raises:
        ValueError: One of them is no requirement.
        ImportError: Likewise if there is nothing to read them with: neither packaging nor pip.
    """
    if not requirements:
        return
    parse = _packaging("requirements").Requirement
    unmet = []
    for text in requirements:
        try:
            requirement = parse(text)
        except ValueError as error:
            raise ValueError(f"{text!r} is no requirement: {error}") from None
        unmet += _unmet(requirement, parse, set())
    if unmet:
        raise ImportError(
            f"requirements are not met: {', '.join(unmet)}. Install them for {sys.executable}, in "
            f"{sys.prefix}"
        )


def _unmet(requirement, parse, seen):
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        return []
    try:
        distribution = importlib.metadata.distribution(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return [f"{_short(requirement)} (not installed)"]
    version = distribution.version
    if not requirement.specifier.contains(version, prereleases=True):
        return [f"{_short(requirement)} ({version} is installed)"]
    unmet = []
    for extra in requirement.extras:
        if (requirement.name, extra) not in seen:
            seen.add((requirement.name, extra))
            unmet += _unmet_extra(distribution, extra, parse, seen)
    return unmet


def _unmet_extra(distribution, extra, parse, seen):
    unmet = []
    for text in distribution.requires or []:
        needed = parse(text)
        marker = needed.marker
        if marker is not None and not marker.evaluate({"extra": ""}):
            if marker.evaluate({"extra": extra}):
                needed.marker = None
                unmet += _unmet(needed, parse, seen)
    return unmet


def _short(requirement):
    return f"{requirement.name}{requirement.specifier}"


def _packaging(module):
    for package in _PACKAGING:
        try:
            return importlib.import_module(f"{package}.{module}")
        except ImportError:
            continue
    raise ImportError(
        f"requirements cannot be checked: neither packaging nor pip is installed in {sys.prefix}"
    )


def _versions(distributions):
    """What is installed, by normalised name; of several the one that is found first."""
    versions = {}
    for distribution in distributions:
        name = distribution.metadata["Name"]
        if name:
            name = re.sub(r"[-_.]+", "-", name).lower()
            versions.setdefault(name, distribution.version)
    return versions
