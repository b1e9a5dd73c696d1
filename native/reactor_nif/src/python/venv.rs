//! Virtual environments, as `python -m venv`, virtualenv and uv make them.

use std::ffi::CStr;
use std::fs;
use std::path::Path;

use pyo3::ffi;

/// The python of a virtual environment, if it is of the version that we are linked with; else, why
/// it cannot be used.
pub fn python(dir: &str) -> Result<String, String> {
    let config = Path::new(dir).join("pyvenv.cfg");
    let config = fs::read_to_string(&config).map_err(|error| {
        format!(
            "{dir} is no virtual environment: {}: {error}",
            config.display()
        )
    })?;
    let python = Path::new(dir).join("bin/python");
    if !python.exists() {
        return Err(format!("{dir} has no bin/python"));
    }
    let ours = linked_version();
    match version(&config) {
        Some(theirs) if short(theirs) == short(&ours) => Ok(python.to_string_lossy().into_owned()),
        Some(theirs) => Err(format!(
            "{dir} is of Python {}, and this is Python {}: make one with a python{} for it",
            short(theirs),
            short(&ours),
            short(&ours)
        )),
        None => Err(format!(
            "{dir}/pyvenv.cfg does not say of which Python it is"
        )),
    }
}

/// What `pyvenv.cfg` says: virtualenv and uv write `version_info`, and mean other things by `version`.
fn version(config: &str) -> Option<&str> {
    let find = |wanted: &str| {
        let mut lines = config.lines().filter_map(|line| line.split_once('='));
        lines
            .find(|(key, _)| key.trim() == wanted)
            .map(|(_, value)| value.trim())
    };
    find("version_info").or_else(|| find("version"))
}

/// As "3.11".
fn short(version: &str) -> &str {
    let second = version.match_indices('.').nth(1);
    second.map_or(version, |(at, _)| &version[..at])
}

fn linked_version() -> String {
    // SAFETY: a static NUL-terminated text, there before Python is started.
    let text = unsafe { CStr::from_ptr(ffi::Py_GetVersion()) };
    let text = text.to_string_lossy();
    text.split(' ').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_each_maker() {
        let venv = "home = /usr/bin\nversion = 3.11.7\nexecutable = /usr/bin/python3.11\n";
        assert_eq!(version(venv).map(short), Some("3.11"));
        let virtualenv = "virtualenv = 20.24\nversion_info = 3.12.1.final.0\nversion = 20\n";
        assert_eq!(version(virtualenv).map(short), Some("3.12"));
        assert_eq!(version("home = /usr/bin\n"), None);
    }

    #[test]
    fn what_is_none_says_why() {
        let error = python("/nowhere").unwrap_err();
        assert!(error.contains("/nowhere/pyvenv.cfg"), "{error}");
    }
}
