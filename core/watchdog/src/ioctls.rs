//! The calls themselves. Numbers and structures are those of `linux/watchdog.h`.
#![allow(unsafe_code)]

use super::Identity;
use rustix::ioctl::{Getter, Opcode, Updater, ioctl, opcode};
use std::ffi::c_int;
use std::io;
use std::os::fd::BorrowedFd;

/// `struct watchdog_info`.
#[repr(C)]
struct Info {
    options: u32,
    firmware_version: u32,
    identity: [u8; 32],
}

const GET_SUPPORT: Opcode = opcode::read::<Info>(b'W', 0);
const SET_OPTIONS: Opcode = opcode::read::<c_int>(b'W', 4);
const SET_TIMEOUT: Opcode = opcode::read_write::<c_int>(b'W', 6);
const GET_TIMEOUT: Opcode = opcode::read::<c_int>(b'W', 7);

/// `WDIOF_MAGICCLOSE`.
const MAGIC_CLOSE: u32 = 0x0100;
/// `WDIOS_DISABLECARD`.
const DISABLE_CARD: c_int = 0x0001;

pub(super) fn identity(fd: BorrowedFd<'_>) -> io::Result<Identity> {
    // SAFETY: WDIOC_GETSUPPORT fills a `struct watchdog_info`, for which every pattern of bits is a value.
    let call = unsafe { Getter::<GET_SUPPORT, Info>::new() };
    // SAFETY: the call writes nothing but that structure.
    let info = unsafe { ioctl(fd, call) }?;
    let name = String::from_utf8_lossy(&info.identity);
    let name = name.split('\0').next().unwrap_or_default().trim().to_owned();
    Ok(Identity { name, magic_close: info.options & MAGIC_CLOSE != 0 })
}

pub(super) fn set_timeout(fd: BorrowedFd<'_>, seconds: u32) -> io::Result<()> {
    let mut value = c_int::try_from(seconds).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: WDIOC_SETTIMEOUT reads and writes an `int`.
    let call = unsafe { Updater::<SET_TIMEOUT, c_int>::new(&mut value) };
    // SAFETY: the call touches nothing but that `int`.
    unsafe { ioctl(fd, call) }?;
    Ok(())
}

pub(super) fn timeout(fd: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: WDIOC_GETTIMEOUT writes an `int`.
    let call = unsafe { Getter::<GET_TIMEOUT, c_int>::new() };
    // SAFETY: the call writes nothing but that `int`.
    let seconds = unsafe { ioctl(fd, call) }?;
    u32::try_from(seconds).map_err(|_| io::ErrorKind::InvalidData.into())
}

pub(super) fn disable(fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut options = DISABLE_CARD;
    // SAFETY: WDIOC_SETOPTIONS reads an `int`, whatever the direction in its number says.
    let call = unsafe { Updater::<SET_OPTIONS, c_int>::new(&mut options) };
    // SAFETY: the call reads nothing but that `int`.
    unsafe { ioctl(fd, call) }?;
    Ok(())
}
