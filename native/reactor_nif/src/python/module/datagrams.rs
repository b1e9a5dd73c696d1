//! What a protocol does with its socket for datagrams: send, and close.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::python::module::context;
use crate::python::module::handle::datagrams;
use crate::python::module::socket::View;

pub(super) fn send_to<'py>(
    py: Python<'py>,
    args: &[Bound<'py, PyAny>],
) -> PyResult<Bound<'py, PyAny>> {
    let served = datagrams(&args[0])?;
    let view = View::of(&args[1])?;
    let to = address(&args[2])?;
    let bytes = view.bytes();
    let within_a_call = context::number() != 0;
    let sent = py.detach(|| served.send(to, bytes, within_a_call));
    Ok(sent.into_pyobject(py)?.to_owned().into_any())
}

pub(super) fn close_datagrams<'py>(
    py: Python<'py>,
    args: &[Bound<'py, PyAny>],
) -> PyResult<Bound<'py, PyAny>> {
    let served = datagrams(&args[0])?;
    served.replace(false);
    served.kick();
    Ok(py.None().into_bound(py))
}

/// `(host, port)`, or with the flow and scope of IPv6, as Python's `socket` has it. The host is an
/// address: a name would have to be looked up, which takes time.
fn address(tuple: &Bound<'_, PyAny>) -> PyResult<SocketAddr> {
    const EXPECTED: &str = "an address is (host, port), or (host, port, flowinfo, scope_id)";
    let tuple = tuple
        .cast::<PyTuple>()
        .map_err(|_| PyTypeError::new_err(EXPECTED))?;
    if !matches!(tuple.len(), 2..=4) {
        return Err(PyTypeError::new_err(EXPECTED));
    }
    let host = tuple.get_item(0)?;
    let host: &str = host
        .extract()
        .map_err(|_| PyTypeError::new_err("a host is a str with an IP address"))?;
    let port: u16 = tuple.get_item(1)?.extract().map_err(|_| {
        let text = "a port is an integer from 0 to 65535";
        PyValueError::new_err(text)
    })?;
    let number = |at: usize| match tuple.get_item(at) {
        Ok(item) => item.extract::<u32>(),
        Err(_) => Ok(0),
    };
    match host.parse() {
        Ok(IpAddr::V4(ip)) => Ok(SocketAddr::new(ip.into(), port)),
        Ok(IpAddr::V6(ip)) => Ok(SocketAddrV6::new(ip, port, number(2)?, number(3)?).into()),
        Err(_) => Err(PyValueError::new_err(format!(
            "a host is an IP address, not {host:?}: look names up first"
        ))),
    }
}
