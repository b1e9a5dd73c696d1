//! What a protocol is told of its connection.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::address::{self, Address};
use crate::owner::Conn;
use crate::python::names::Names;

/// Says who is at the other end: an address and a port, or which process of which user.
pub fn tell_address(names: &Names, client_info: &Bound<'_, PyDict>, conn: &Conn) -> PyResult<()> {
    match &conn.peer {
        Some(Address::Local(name)) => {
            client_info.set_item(&names.addr, OsStr::from_bytes(name))?;
            client_info.set_item(&names.port, None::<u16>)?;
            client_info.set_item(&names.kind, "unix")?;
            let state = conn.lock();
            let credentials = state.socket().and_then(address::peer_credentials);
            drop(state);
            if let Ok(credentials) = credentials {
                client_info.set_item("pid", credentials.pid)?;
                client_info.set_item("uid", credentials.uid)?;
                client_info.set_item("gid", credentials.gid)?;
            }
        }
        peer => {
            let address = match peer {
                Some(Address::Net(address)) => Some(address),
                _ => None,
            };
            let ip = address.map(|address| address.ip().to_string());
            client_info.set_item(&names.addr, ip)?;
            client_info.set_item(&names.port, address.map(|address| address.port()))?;
            match conn.lock().kind() {
                None => client_info.set_item(&names.kind, &names.tcp)?,
                Some(kind) => client_info.set_item(&names.kind, kind)?,
            }
        }
    }
    Ok(())
}

/// What was agreed on, or `None` for a connection without TLS.
pub fn tls_info<'py>(py: Python<'py>, conn: &Conn) -> PyResult<Option<Bound<'py, PyDict>>> {
    if !conn.secure {
        return Ok(None);
    }
    let (facts, certificate) = {
        let state = conn.lock();
        let Some(tls) = state.tls() else {
            return Ok(None);
        };
        let certificate = tls.peer_chain().next().map(<[u8]>::to_vec);
        (tls.facts(), certificate)
    };
    let info = PyDict::new(py);
    info.set_item("version", facts.version)?;
    info.set_item("cipher", facts.cipher)?;
    let alpn = facts
        .alpn
        .map(|name| String::from_utf8_lossy(&name).into_owned());
    info.set_item("alpn", alpn)?;
    info.set_item("sni", facts.sni)?;
    info.set_item("resumed", facts.resumed)?;
    let certificate = certificate.map(|der| PyBytes::new(py, &der));
    info.set_item("peer_certificate", certificate)?;
    Ok(Some(info))
}
