//! What Python has to say, on its way to Elixir's Logger: its `logging`, warnings, stdout and stderr.

use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::log::{self, Severity};
use crate::python::module::context_name;

/// The most bytes of one message that are passed on.
const LONGEST: usize = 16 * 1024;

/// Python's numbers for the levels.
const LEVELS: [(i64, Severity); 4] = [
    (50, Severity::Critical),
    (40, Severity::Error),
    (30, Severity::Warning),
    (20, Severity::Info),
];

fn severity(level: i64) -> Severity {
    let known = LEVELS.iter().find(|(number, _)| *number <= level);
    known.map_or(Severity::Debug, |(_, severity)| *severity)
}

/// Puts a message into the queue of the log, if there is room: it never waits.
pub(super) fn log<'py>(py: Python<'py>, args: &[Bound<'py, PyAny>]) -> PyResult<Bound<'py, PyAny>> {
    let severity = severity(args[0].extract()?);
    if log::wants(severity) {
        let mut fields = vec![("logger", text(&args[1])?.into())];
        for (name, value) in ["file", "line", "module", "function"]
            .iter()
            .zip(&args[3..])
        {
            if value.is_none() {
                continue;
            }
            fields.push((
                *name,
                match value.extract::<u64>() {
                    Ok(number) => number.into(),
                    Err(_) => text(value)?.into(),
                },
            ));
        }
        let context = context_name();
        if !context.is_empty() {
            fields.push(("context", context.into()));
        }
        log::pass("python", severity, shortened(text(&args[2])?), fields);
    }
    Ok(py.None().into_bound(py))
}

pub(super) fn log_level<'py>(
    py: Python<'py>,
    _: &[Bound<'py, PyAny>],
) -> PyResult<Bound<'py, PyAny>> {
    let wanted = LEVELS
        .iter()
        .rfind(|(_, severity)| log::wants(*severity))
        .map_or(50, |(number, _)| *number);
    let finest = if log::wants(Severity::Debug) {
        10
    } else {
        wanted
    };
    Ok(finest.into_pyobject(py)?.into_any())
}

/// Any text of Python's: half of a pair of surrogates is replaced.
fn text(value: &Bound<'_, PyAny>) -> PyResult<String> {
    Ok(value.cast::<PyString>()?.to_string_lossy().into_owned())
}

fn shortened(mut message: String) -> String {
    if message.len() > LONGEST {
        let cut = (0..=LONGEST)
            .rev()
            .find(|at| message.is_char_boundary(*at))
            .unwrap_or(0);
        let more = message.len() - cut;
        message.truncate(cut);
        message.push_str(&format!("... ({more} bytes more)"));
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_between_those_that_have_names_count_as_the_lower_one() {
        assert_eq!(severity(0), Severity::Debug);
        assert_eq!(severity(25), Severity::Info);
        assert_eq!(severity(30), Severity::Warning);
        assert_eq!(severity(49), Severity::Error);
        assert_eq!(severity(99), Severity::Critical);
    }

    #[test]
    fn a_long_message_is_cut_between_two_characters() {
        let long = format!("x{}", "ü".repeat(LONGEST));
        let short = shortened(long);
        assert!(short.starts_with("xü"));
        assert!(
            short.ends_with(&format!("... ({} bytes more)", LONGEST + 2)),
            "{}",
            &short[LONGEST - 2..]
        );
        assert_eq!(shortened("short".into()), "short");
    }
}
