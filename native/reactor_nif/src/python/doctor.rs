//! What Python there is, and what can be imported where.

use std::thread;

use pyo3::prelude::*;

use crate::python::interpreter::{ensure_started, PythonError};
use crate::python::isolation::Isolation;
use crate::python::thread::ThreadState;

/// What was found.
pub struct Findings {
    /// By name; one that does not apply is empty.
    pub facts: Vec<(String, String)>,
    /// Each package in each isolation that there is: its version, which may be empty, or why it cannot
    /// be imported.
    pub packages: Vec<(String, Isolation, Result<String, String>)>,
}

/// Starts Python unless it runs, and looks: on a thread of its own, which is waited for.
pub fn examine(python_dir: String, packages: Vec<String>) -> Result<Findings, PythonError> {
    let thread = thread::Builder::new().name("py-doctor".into());
    match thread.spawn(move || look(&python_dir, &packages)) {
        Ok(thread) => thread
            .join()
            .unwrap_or_else(|_| Err(PythonError::startup("the examination panicked"))),
        Err(error) => Err(PythonError::startup(format!(
            "no thread for Python: {error}"
        ))),
    }
}

fn look(python_dir: &str, packages: &[String]) -> Result<Findings, PythonError> {
    let info = ensure_started(python_dir, None)?;
    let mut findings = Findings {
        facts: vec![("libpython".into(), info.libpython)],
        packages: Vec::new(),
    };
    for isolation in [Isolation::Shared, Isolation::Own] {
        if isolation.refusal(true).is_some() {
            continue;
        }
        let mut thread = ThreadState::new(isolation, python_dir)?;
        let looked = thread.with(|py| {
            look_inside(py, isolation, packages, &mut findings)
                .map_err(|error| PythonError::from_raised(py, error))
        });
        thread.end();
        looked?;
    }
    Ok(findings)
}

fn look_inside(
    py: Python<'_>,
    isolation: Isolation,
    packages: &[String],
    findings: &mut Findings,
) -> PyResult<()> {
    let doctor = py.import("erlang.reactor.doctor")?;
    if isolation == Isolation::Shared {
        let facts: Vec<(String, String)> = doctor.call_method0("facts")?.extract()?;
        findings.facts.extend(facts);
    }
    for name in packages {
        let (there, text): (bool, String) =
            doctor.call_method1("try_import", (name,))?.extract()?;
        let outcome = if there { Ok(text) } else { Err(text) };
        findings.packages.push((name.clone(), isolation, outcome));
    }
    Ok(())
}
