//! What a context calls in Python, by the names that a protocol's author knows.

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Callback {
    /// Code that may take as long as it likes: an import, setup code.
    Import,
    /// A call of a process's, which may take as long as that waits.
    Call,
    Factory,
    ConnectionMade,
    DataReceived,
    EofReceived,
    WriteReady,
    PauseWriting,
    ResumeWriting,
    GoingAway,
    ConnectionLost,
    DatagramReceived,
    ErrorReceived,
    /// Steps of coroutines.
    Task,
    /// What an exception says of itself.
    Report,
}

const ALL: [Callback; 15] = [
    Callback::Import,
    Callback::Call,
    Callback::Factory,
    Callback::ConnectionMade,
    Callback::DataReceived,
    Callback::EofReceived,
    Callback::WriteReady,
    Callback::PauseWriting,
    Callback::ResumeWriting,
    Callback::GoingAway,
    Callback::ConnectionLost,
    Callback::DatagramReceived,
    Callback::ErrorReceived,
    Callback::Task,
    Callback::Report,
];

impl Callback {
    /// As the protocol's author knows it.
    pub fn name(self) -> &'static str {
        match self {
            Callback::Import => "import",
            Callback::Call => "call",
            Callback::Factory => "factory",
            Callback::ConnectionMade => "connection_made",
            Callback::DataReceived => "data_received",
            Callback::EofReceived => "eof_received",
            Callback::WriteReady => "write_ready",
            Callback::PauseWriting => "pause_writing",
            Callback::ResumeWriting => "resume_writing",
            Callback::GoingAway => "going_away",
            Callback::ConnectionLost => "connection_lost",
            Callback::DatagramReceived => "datagram_received",
            Callback::ErrorReceived => "error_received",
            Callback::Task => "task",
            Callback::Report => "traceback",
        }
    }
}

impl Callback {
    /// The one that a context shows by this number.
    pub(super) fn of(number: u8) -> Self {
        ALL.get(usize::from(number))
            .copied()
            .unwrap_or(Callback::Import)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_has_its_name() {
        for (index, what) in ALL.into_iter().enumerate() {
            assert_eq!(index, what as usize);
        }
    }
}
