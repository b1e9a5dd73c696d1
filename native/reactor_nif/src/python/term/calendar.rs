//! Dates and times.
//!
//! Python's are made by calling their classes: the C interface of `datetime` is found through something
//! of the process that one interpreter would set up for all.

use pyo3::prelude::*;
use rustler::{Atom, Encoder, NifResult, Term};

use super::classes::Class;
use super::from_python::Outgoing;
use super::to_python::Incoming;
use super::Converted;

mod atoms {
    rustler::atoms! {
        calendar,
        date = "Elixir.Date",
        date_time = "Elixir.DateTime",
        day,
        hour,
        iso = "Elixir.Calendar.ISO",
        microsecond,
        minute,
        month,
        naive_date_time = "Elixir.NaiveDateTime",
        second,
        std_offset,
        r#struct = "__struct__",
        time = "Elixir.Time",
        time_zone,
        utc_offset,
        year,
        zone_abbr,
    }
}

/// What Elixir writes for UTC.
const UTC: (&str, &str) = ("Etc/UTC", "UTC");

/// Years, months, days.
type Day = (i32, u32, u32);
/// Hours, minutes, seconds, microseconds.
type Clock = (u32, u32, u32, u32);

/// A struct of that name, if it is one of these, and of the calendar that Python has.
pub fn to_python<'py>(
    incoming: &Incoming<'py, '_>,
    name: Atom,
    term: Term,
) -> Converted<Option<Bound<'py, PyAny>>> {
    let known = [
        atoms::date(),
        atoms::time(),
        atoms::naive_date_time(),
        atoms::date_time(),
    ];
    if !known.contains(&name) || !is_iso(term) {
        return Ok(None);
    }
    if name == atoms::date() {
        let Ok(day) = day(term) else { return Ok(None) };
        return Ok(Some(incoming.classes()?.get(Class::Date)?.call1(day)?));
    }
    let Ok(time) = clock(term) else {
        return Ok(None);
    };
    if name == atoms::time() {
        return Ok(Some(incoming.classes()?.get(Class::Time)?.call1(time)?));
    }
    let Ok((year, month, day)) = day(term) else {
        return Ok(None);
    };
    let (hour, minute, second, microsecond) = time;
    let class = incoming.classes()?.get(Class::DateTime)?;
    if name == atoms::naive_date_time() {
        let fields = (year, month, day, hour, minute, second, microsecond);
        return Ok(Some(class.call1(fields)?));
    }
    let Ok(offset) = offset(term) else {
        return Ok(None);
    };
    let zone = incoming.classes()?.get(Class::TimeZone)?;
    let zone = if offset == 0 {
        zone.getattr("utc")?
    } else {
        let delta = incoming.classes()?.get(Class::TimeDelta)?;
        zone.call1((delta.call1((0, offset))?,))?
    };
    let fields = (year, month, day, hour, minute, second, microsecond, zone);
    Ok(Some(class.call1(fields)?))
}

fn is_iso(term: Term) -> bool {
    let calendar = term.map_get(atoms::calendar());
    calendar.is_ok_and(|calendar| atoms::iso() == calendar)
}

fn day(term: Term) -> NifResult<Day> {
    Ok((
        term.map_get(atoms::year())?.decode()?,
        term.map_get(atoms::month())?.decode()?,
        term.map_get(atoms::day())?.decode()?,
    ))
}

fn clock(term: Term) -> NifResult<Clock> {
    let (microsecond, _precision): (u32, u32) = term.map_get(atoms::microsecond())?.decode()?;
    Ok((
        term.map_get(atoms::hour())?.decode()?,
        term.map_get(atoms::minute())?.decode()?,
        term.map_get(atoms::second())?.decode()?,
        microsecond,
    ))
}

/// From UTC, in seconds.
fn offset(term: Term) -> NifResult<i64> {
    let utc: i32 = term.map_get(atoms::utc_offset())?.decode()?;
    let std: i32 = term.map_get(atoms::std_offset())?.decode()?;
    Ok(i64::from(utc) + i64::from(std))
}

/// An instance of one of Python's classes for these, if it is one.
pub fn from_python<'a, 'py>(
    outgoing: &Outgoing<'a, 'py>,
    value: &Bound<'py, PyAny>,
) -> Converted<Option<Term<'a>>> {
    let classes = outgoing.classes()?;
    if classes.is(value, Class::DateTime) {
        date_time(outgoing, value).map(Some)
    } else if classes.is(value, Class::Date) {
        let mut fields = Fields::new(outgoing, atoms::date());
        fields.day(value)?;
        fields.finish().map(Some)
    } else if classes.is(value, Class::Time) {
        if !value.getattr("tzinfo")?.is_none() {
            let text = "a datetime.time with a time zone has no counterpart outside Python";
            return Err(super::failure::Failure::value(text));
        }
        let mut fields = Fields::new(outgoing, atoms::time());
        fields.clock(value)?;
        fields.finish().map(Some)
    } else {
        Ok(None)
    }
}

fn date_time<'a, 'py>(
    outgoing: &Outgoing<'a, 'py>,
    value: &Bound<'py, PyAny>,
) -> Converted<Term<'a>> {
    let class = outgoing.classes()?.get(Class::DateTime)?;
    let offset = class.call_method1("utcoffset", (value,))?;
    if offset.is_none() {
        let mut fields = Fields::new(outgoing, atoms::naive_date_time());
        fields.day(value)?;
        fields.clock(value)?;
        return fields.finish();
    }
    // Plain, so that nothing but its offset is asked of the time zone.
    let naive = class.call1((
        value.getattr("year")?,
        value.getattr("month")?,
        value.getattr("day")?,
        value.getattr("hour")?,
        value.getattr("minute")?,
        value.getattr("second")?,
        value.getattr("microsecond")?,
    ))?;
    let utc = naive.sub(offset)?;
    let mut fields = Fields::new(outgoing, atoms::date_time());
    fields.day(&utc)?;
    fields.clock(&utc)?;
    let (zone, abbreviation) = UTC;
    fields.add(atoms::time_zone(), outgoing.binary(zone.as_bytes()));
    fields.add(atoms::zone_abbr(), outgoing.binary(abbreviation.as_bytes()));
    fields.add(atoms::utc_offset(), 0);
    fields.add(atoms::std_offset(), 0);
    fields.finish()
}

/// Those of a struct.
struct Fields<'o, 'a, 'py> {
    outgoing: &'o Outgoing<'a, 'py>,
    keys: Vec<Term<'a>>,
    values: Vec<Term<'a>>,
}

impl<'o, 'a, 'py> Fields<'o, 'a, 'py> {
    fn new(outgoing: &'o Outgoing<'a, 'py>, name: Atom) -> Self {
        let mut fields = Fields {
            outgoing,
            keys: Vec::new(),
            values: Vec::new(),
        };
        fields.add(atoms::r#struct(), name);
        fields.add(atoms::calendar(), atoms::iso());
        fields
    }

    fn add(&mut self, key: Atom, value: impl Encoder) {
        self.keys.push(key.to_term(self.outgoing.env));
        self.values.push(value.encode(self.outgoing.env));
    }

    fn day(&mut self, value: &Bound<'_, PyAny>) -> Converted<()> {
        self.add(atoms::year(), value.getattr("year")?.extract::<i32>()?);
        self.add(atoms::month(), value.getattr("month")?.extract::<u32>()?);
        self.add(atoms::day(), value.getattr("day")?.extract::<u32>()?);
        Ok(())
    }

    fn clock(&mut self, value: &Bound<'_, PyAny>) -> Converted<()> {
        self.add(atoms::hour(), value.getattr("hour")?.extract::<u32>()?);
        self.add(atoms::minute(), value.getattr("minute")?.extract::<u32>()?);
        self.add(atoms::second(), value.getattr("second")?.extract::<u32>()?);
        let microsecond: u32 = value.getattr("microsecond")?.extract()?;
        let precision = if microsecond == 0 { 0 } else { 6 };
        self.add(atoms::microsecond(), (microsecond, precision));
        Ok(())
    }

    fn finish(self) -> Converted<Term<'a>> {
        self.outgoing.map(&self.keys, &self.values, "field")
    }
}
