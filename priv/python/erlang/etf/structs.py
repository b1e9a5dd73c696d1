"""The structs of Elixir's that Python has types for: sets, dates and times.

A struct is a map with its module under ``__struct__``. Other structs, other calendars, and what only looks like one
of these, stay dicts. What Python's types cannot hold, as a year before 1, is an error.
"""

import datetime

from ..terms import Atom
from .errors import DecodeError

_STRUCT = Atom("__struct__")
_CALENDAR = Atom("calendar")
_ISO = Atom("Elixir.Calendar.ISO")
_DATE = Atom("Elixir.Date")
_TIME = Atom("Elixir.Time")
_NAIVE = Atom("Elixir.NaiveDateTime")
_AWARE = Atom("Elixir.DateTime")
_MAP_SET = Atom("Elixir.MapSet")

_DAY = tuple(Atom(name) for name in ("year", "month", "day"))
_CLOCK = tuple(Atom(name) for name in ("hour", "minute", "second"))
_MICROSECOND = Atom("microsecond")
_OFFSETS = (Atom("utc_offset"), Atom("std_offset"))
_UTC = {
    _OFFSETS[0]: 0,
    _OFFSETS[1]: 0,
    Atom("time_zone"): "Etc/UTC",
    Atom("zone_abbr"): "UTC",
}


# ---- to Python --------------------------------------------------------------


def to_python(fields, at):
    """Returns what a map with a key ``__struct__`` is in Python, which may be the map; it was at ``at``.

    Raises:
        DecodeError: Python has no such date or time.
    """
    module = fields[_STRUCT]
    make = _MAKERS.get(module) if type(module) is Atom else None
    # A string of this name as the key makes no struct.
    if make is None or not any(type(key) is Atom and key == _STRUCT for key in fields):
        return fields
    try:
        return make(fields)
    except (KeyError, TypeError):
        return fields
    except (OverflowError, ValueError) as error:
        raise DecodeError(f"Python has no such {module[7:]}: {error}", at, 116) from None


def _to_set(fields):
    # Releases before Elixir 1.15 have a version in it.
    elements = fields["map"]
    if type(elements) is not dict or any(elements.values()) or len(fields) > 3:
        raise TypeError
    return set(elements)


def _day(fields):
    return [fields[name] for name in _DAY]


def _clock(fields):
    microsecond = fields[_MICROSECOND]
    if type(microsecond) is not tuple or len(microsecond) != 2:
        raise TypeError
    return [*(fields[name] for name in _CLOCK), microsecond[0]]


def _to_aware(fields):
    offset = datetime.timedelta(seconds=sum(fields[name] for name in _OFFSETS))
    zone = datetime.timezone(offset) if offset else datetime.timezone.utc
    return datetime.datetime(*_day(fields), *_clock(fields), tzinfo=zone)


def _of_calendar(make):
    def of_iso(fields):
        if fields[_CALENDAR] != _ISO:
            raise TypeError
        return make(fields)

    return of_iso


_MAKERS = {
    _MAP_SET: _to_set,
    _DATE: _of_calendar(lambda fields: datetime.date(*_day(fields))),
    _TIME: _of_calendar(lambda fields: datetime.time(*_clock(fields))),
    _NAIVE: _of_calendar(lambda fields: datetime.datetime(*_day(fields), *_clock(fields))),
    _AWARE: _of_calendar(_to_aware),
}


# ---- from Python ------------------------------------------------------------


def of_set(elements, version):
    """The fields of a MapSet; ``version`` is that of Elixir before 1.15, or None."""
    fields = {_STRUCT: _MAP_SET, Atom("map"): dict.fromkeys(elements, [])}
    if version is not None:
        fields[Atom("version")] = version
    return fields


def of_date(date):
    return {_STRUCT: _DATE, _CALENDAR: _ISO, **_day_fields(date)}


def of_time(time):
    if time.tzinfo is not None:
        raise ValueError("a time with a zone has no counterpart outside Python")
    return {_STRUCT: _TIME, _CALENDAR: _ISO, **_clock_fields(time)}


def of_datetime(moment):
    zone = {}
    module = _NAIVE
    # As Python's own rule says: a zone that knows no offset makes it naive.
    if moment.utcoffset() is not None:
        moment = moment.astimezone(datetime.timezone.utc)
        module, zone = _AWARE, _UTC
    fields = {_STRUCT: module, _CALENDAR: _ISO, **_day_fields(moment), **_clock_fields(moment)}
    return {**fields, **zone}


def _day_fields(date):
    return dict(zip(_DAY, (date.year, date.month, date.day)))


def _clock_fields(time):
    fields = dict(zip(_CLOCK, (time.hour, time.minute, time.second)))
    fields[_MICROSECOND] = (time.microsecond, 6 if time.microsecond else 0)
    return fields
