//! Why TLS ended a connection, in the words of `:ssl`.

use rustls::{AlertDescription, CertificateError, Error};

/// What one side has against the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// The name of the alert, as OTP spells it.
    pub name: &'static str,
    /// What happened, in words; nothing that the peer sent but names in certificates.
    pub text: String,
}

impl Alert {
    /// The peer sent what is no TLS, or too much of it.
    pub fn decode_error(text: &str) -> Self {
        Alert {
            name: "decode_error",
            text: text.to_string(),
        }
    }
}

impl From<Error> for Alert {
    fn from(error: Error) -> Self {
        let alert = match &error {
            Error::AlertReceived(alert) => *alert,
            // OTP says this of a name that does not fit.
            Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ) => AlertDescription::HandshakeFailure,
            Error::InvalidCertificate(error) => AlertDescription::from(error.clone()),
            Error::InvalidMessage(_) => AlertDescription::DecodeError,
            Error::NoCertificatesPresented => AlertDescription::CertificateRequired,
            Error::DecryptError => AlertDescription::BadRecordMac,
            Error::PeerSentOversizedRecord => AlertDescription::RecordOverflow,
            Error::NoApplicationProtocol => AlertDescription::NoApplicationProtocol,
            Error::PeerIncompatible(why) => incompatible(why),
            Error::InappropriateMessage { .. }
            | Error::InappropriateHandshakeMessage { .. }
            | Error::PeerMisbehaved(_) => AlertDescription::UnexpectedMessage,
            Error::General(_) => AlertDescription::HandshakeFailure,
            _ => AlertDescription::InternalError,
        };
        Alert {
            name: name(alert),
            text: error.to_string(),
        }
    }
}

fn incompatible(why: &rustls::PeerIncompatible) -> AlertDescription {
    use rustls::PeerIncompatible::*;
    match why {
        SupportedVersionsExtensionRequired
        | Tls12NotOffered
        | Tls12NotOfferedOrEnabled
        | Tls13RequiredForQuic
        | ServerDoesNotSupportTls12Or13
        | ServerTlsVersionIsDisabledByOurConfig => AlertDescription::ProtocolVersion,
        _ => AlertDescription::HandshakeFailure,
    }
}

fn name(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::CloseNotify => "close_notify",
        AlertDescription::UnexpectedMessage => "unexpected_message",
        AlertDescription::BadRecordMac => "bad_record_mac",
        AlertDescription::RecordOverflow => "record_overflow",
        AlertDescription::HandshakeFailure => "handshake_failure",
        AlertDescription::BadCertificate => "bad_certificate",
        AlertDescription::UnsupportedCertificate => "unsupported_certificate",
        AlertDescription::CertificateRevoked => "certificate_revoked",
        AlertDescription::CertificateExpired => "certificate_expired",
        AlertDescription::CertificateUnknown => "certificate_unknown",
        AlertDescription::IllegalParameter => "illegal_parameter",
        AlertDescription::UnknownCA => "unknown_ca",
        AlertDescription::AccessDenied => "access_denied",
        AlertDescription::DecodeError => "decode_error",
        AlertDescription::DecryptError => "decrypt_error",
        AlertDescription::ProtocolVersion => "protocol_version",
        AlertDescription::InsufficientSecurity => "insufficient_security",
        AlertDescription::InternalError => "internal_error",
        AlertDescription::InappropriateFallback => "inappropriate_fallback",
        AlertDescription::UserCanceled => "user_canceled",
        AlertDescription::NoRenegotiation => "no_renegotiation",
        AlertDescription::MissingExtension => "missing_extension",
        AlertDescription::UnsupportedExtension => "unsupported_extension",
        AlertDescription::UnrecognisedName => "unrecognized_name",
        AlertDescription::BadCertificateStatusResponse => "bad_certificate_status_response",
        AlertDescription::UnknownPSKIdentity => "unknown_psk_identity",
        AlertDescription::CertificateRequired => "certificate_required",
        AlertDescription::NoApplicationProtocol => "no_application_protocol",
        _ => "handshake_failure",
    }
}
