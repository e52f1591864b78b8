//! The REST listening socket: opened once by the supervisor, passed on with the seat.

use crate::error::{Error, Result};
use ha_core::config::{RestApi, host_port};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};

/// Opens it.
pub fn open(restapi: &RestApi) -> Result<TcpListener> {
    let mut address = restapi.listen.clone();
    if address.host == "*" || address.host.is_empty() {
        "0.0.0.0".clone_into(&mut address.host);
    }
    let shown = host_port(&address);
    let doing = || Error::io(|| format!("listening on {shown} for the REST API"));
    let found = (address.host.as_str(), address.port).to_socket_addrs().map_err(doing())?;
    let mut last = None;
    for address in found {
        match listen_on(address, restapi.request_queue_size) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = Some(error),
        }
    }
    Err(doing()(last.unwrap_or_else(|| std::io::ErrorKind::AddrNotAvailable.into())))
}

fn listen_on(address: SocketAddr, backlog: u32) -> std::io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &address)?;
    listen(&socket, i32::try_from(backlog.max(16)).unwrap_or(128))?;
    Ok(TcpListener::from(socket))
}
