//! How large and how deep a value may be, in either direction.

use crate::python::term::failure::Failure;
use crate::python::term::Converted;

/// How many containers may be in each other. Conversions call themselves as deep as this.
const DEPTH: usize = 64;

/// How many values one conversion makes at most, containers and what is in them: values that are in a
/// list twice are made twice, so something small in Python could become larger than any memory.
const NODES: usize = 10_000_000;

/// What is left of both.
pub struct Size {
    depth: usize,
    nodes: usize,
}

impl Size {
    /// All of both.
    pub fn new() -> Self {
        Size {
            depth: DEPTH,
            nodes: NODES,
        }
    }

    /// Counts a value.
    pub fn count(&mut self) -> Converted<()> {
        self.nodes = self.nodes.checked_sub(1).ok_or_else(|| {
            Failure::value(format!("more than {NODES} values are too many to convert"))
        })?;
        Ok(())
    }

    /// Goes into a container.
    pub fn enter(&mut self) -> Converted<()> {
        self.depth = self
            .depth
            .checked_sub(1)
            .ok_or_else(|| Failure::value(format!("nested more than {DEPTH} deep")))?;
        Ok(())
    }

    /// Leaves it.
    pub fn leave(&mut self) {
        self.depth += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_deep_as_said_and_no_deeper() {
        let mut size = Size::new();
        for _ in 0..DEPTH {
            assert!(size.enter().is_ok());
        }
        assert!(size.enter().is_err());
        size.leave();
        assert!(size.enter().is_ok());
    }

    #[test]
    fn as_many_as_said_and_no_more() {
        let mut size = Size::new();
        assert!((0..NODES).all(|_| size.count().is_ok()));
        assert!(size.count().is_err());
    }
}
