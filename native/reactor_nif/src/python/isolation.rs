//! Where a context lives, and whether this Python has such a place.

use std::ffi::CStr;

use pyo3::ffi;

/// Where a context's Python runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// In the main interpreter, with its GIL and its modules.
    Shared,
    /// In an interpreter of its own, with its own GIL and modules.
    Own,
}

/// Whether interpreters with their own GIL are offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Offer {
    Yes,
    /// Only to those who ask for what is experimental.
    Experimental,
    /// Python is too old.
    TooOld,
    /// Python has no GIL: nothing was ever proved there.
    FreeThreaded,
}

const OWN: Offer = if cfg!(Py_GIL_DISABLED) {
    Offer::FreeThreaded
} else if cfg!(Py_3_14) {
    Offer::Yes
} else if cfg!(Py_3_13) {
    Offer::Experimental
} else {
    Offer::TooOld
};

impl Isolation {
    /// Why it cannot be had, and what it would take; `None` if it can.
    pub fn refusal(self, experimental: bool) -> Option<String> {
        match self {
            Isolation::Shared => None,
            Isolation::Own => refusal(OWN, experimental, &version()),
        }
    }
}

fn refusal(offer: Offer, experimental: bool, version: &str) -> Option<String> {
    match offer {
        Offer::Yes => None,
        Offer::Experimental if experimental => None,
        Offer::Experimental => Some(format!(
            "an interpreter with a GIL of its own is experimental on Python {version}, and needs \
             experimental: true, or Python 3.14"
        )),
        Offer::TooOld => Some(format!(
            "an interpreter with a GIL of its own needs Python 3.14, or 3.13 with \
             experimental: true, and this is Python {version}"
        )),
        Offer::FreeThreaded => Some(format!(
            "an interpreter with a GIL of its own needs Python 3.14 with a GIL, and this is a \
             free-threaded Python {version}"
        )),
    }
}

/// The running Python's version, as `"3.14.0"`; also before it is started.
fn version() -> String {
    // SAFETY: may be called at any time, and gives static NUL-terminated text.
    let text = unsafe { CStr::from_ptr(ffi::Py_GetVersion()) }.to_string_lossy();
    text.split(' ').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_says_what_it_takes() {
        assert_eq!(Isolation::Shared.refusal(false), None);
        assert_eq!(refusal(Offer::Yes, false, "3.14.1"), None);
        assert_eq!(refusal(Offer::Experimental, true, "3.13.0"), None);
        for (offer, experimental, version, needed) in [
            (Offer::Experimental, false, "3.13.0", "experimental: true"),
            (Offer::TooOld, false, "3.11.2", "3.14"),
            (Offer::TooOld, true, "3.12.1", "3.14"),
            (Offer::FreeThreaded, true, "3.14.0", "with a GIL"),
        ] {
            let text = refusal(offer, experimental, version).expect("refused");
            assert!(text.contains(needed) && text.contains(version), "{text}");
        }
    }

    #[test]
    fn the_version_is_a_version() {
        assert!(version().starts_with("3."));
    }
}
