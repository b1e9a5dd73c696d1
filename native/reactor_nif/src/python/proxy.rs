//! What a proxy said about a connection, as a dict: `client_info["proxy"]`.
//!
//! ```text
//! {"version": 1 or 2, "command": "proxy" or "local", "transport": "stream", "datagram" or None,
//!  "source": (address, port), the path of a Unix socket as bytes, or None, "destination": likewise,
//!  "tlvs": {"alpn": bytes, "authority": str, "unique_id": bytes, "netns": str, "ssl": dict,
//!           "others": [(type, bytes), ...]}}
//! ```
//!
//! `tlvs`, and its `ssl`, have only what the header has. `ssl` has the keys of `Reactor.Proxy`'s.

use std::net::SocketAddr;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::proxy::{Addresses, Command, Header, Ssl, Tlvs, Transport, Version};

/// The dict.
pub fn to_dict<'py>(py: Python<'py>, header: &Header) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    let version = match header.version {
        Version::One => 1,
        Version::Two => 2,
    };
    let command = match header.command {
        Command::Local => "local",
        Command::Proxy => "proxy",
    };
    let transport = match header.transport {
        Transport::Unspecified => None,
        Transport::Stream => Some("stream"),
        Transport::Datagram => Some("datagram"),
    };
    dict.set_item("version", version)?;
    dict.set_item("command", command)?;
    dict.set_item("transport", transport)?;
    let ip = |end: &SocketAddr| (end.ip().to_string(), end.port());
    match &header.addresses {
        Addresses::Unknown => {
            dict.set_item("source", py.None())?;
            dict.set_item("destination", py.None())?;
        }
        Addresses::Ip {
            source,
            destination,
        } => {
            dict.set_item("source", ip(source))?;
            dict.set_item("destination", ip(destination))?;
        }
        Addresses::Unix {
            source,
            destination,
        } => {
            dict.set_item("source", PyBytes::new(py, source))?;
            dict.set_item("destination", PyBytes::new(py, destination))?;
        }
    }
    dict.set_item("tlvs", tlvs(py, &header.tlvs)?)?;
    Ok(dict)
}

fn tlvs<'py>(py: Python<'py>, tlvs: &Tlvs) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    put_bytes(&dict, "alpn", &tlvs.alpn)?;
    put_text(&dict, "authority", &tlvs.authority)?;
    put_bytes(&dict, "unique_id", &tlvs.unique_id)?;
    put_text(&dict, "netns", &tlvs.netns)?;
    if let Some(said) = &tlvs.ssl {
        dict.set_item("ssl", ssl(py, said)?)?;
    }
    if !tlvs.others.is_empty() {
        let others = tlvs.others.iter();
        let others: Vec<_> = others
            .map(|(kind, value)| (*kind, PyBytes::new(py, value)))
            .collect();
        dict.set_item("others", others)?;
    }
    Ok(dict)
}

fn ssl<'py>(py: Python<'py>, ssl: &Ssl) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("tls", ssl.tls)?;
    dict.set_item("certificate", ssl.cert_in_connection)?;
    dict.set_item("certificate_in_session", ssl.cert_in_session)?;
    dict.set_item("verified", ssl.verified())?;
    dict.set_item("verify", ssl.verify)?;
    let texts = [
        ("version", &ssl.version),
        ("cn", &ssl.cn),
        ("cipher", &ssl.cipher),
        ("sig_alg", &ssl.sig_alg),
        ("key_alg", &ssl.key_alg),
        ("group", &ssl.group),
        ("sig_scheme", &ssl.sig_scheme),
    ];
    for (key, text) in texts {
        put_text(&dict, key, text)?;
    }
    put_bytes(&dict, "client_cert", &ssl.client_cert)?;
    Ok(dict)
}

fn put_text(dict: &Bound<'_, PyDict>, key: &str, text: &Option<String>) -> PyResult<()> {
    match text {
        Some(text) => dict.set_item(key, text),
        None => Ok(()),
    }
}

fn put_bytes(dict: &Bound<'_, PyDict>, key: &str, bytes: &Option<Vec<u8>>) -> PyResult<()> {
    match bytes {
        Some(bytes) => dict.set_item(key, PyBytes::new(dict.py(), bytes)),
        None => Ok(()),
    }
}
