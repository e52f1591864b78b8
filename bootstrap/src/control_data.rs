//! Reads `global/pg_control` of `PostgreSQL` 15 to 18 directly: it is asked for at every tick while the server is
//! down, and a switchover waits for the answer, so no program is started for it.

use crate::error::{Error, Result};
use ha_core::ids::{Lsn, SystemId, Timeline};
use ha_core::local::{Control, ControlState};
use std::path::Path;
use std::time::Duration;

/// A control file, with the fields only the supervisor needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlFile {
    /// What decisions look at.
    pub control: Control,
    /// Redo position of the latest checkpoint.
    pub redo: Lsn,
    /// Size of a WAL segment.
    pub segment_bytes: u32,
    /// Data checksums are on.
    pub checksums: bool,
    /// `wal_log_hints` of the last run.
    pub wal_log_hints: bool,
    /// Values a standby may not go below (`max_connections`, `max_worker_processes`, `max_wal_senders`,
    /// `max_prepared_transactions`, `max_locks_per_transaction`).
    pub floors: [i32; 5],
}

/// `PG_CONTROL_VERSION` of 15 and 16.
const VERSION_15: u32 = 1300;
/// `PG_CONTROL_VERSION` of 17, whose new field lies where padding was.
const VERSION_17: u32 = 1700;
/// `PG_CONTROL_VERSION` of 18.
const VERSION_18: u32 = 1800;
/// A write of the server may be seen half done: read again this often.
const READS_MAX: u32 = 10;

/// Offsets in `ControlFileData`, alike in all supported versions up to the checksum; `tests/headers.c` makes sure.
mod at {
    pub const SYSTEM_IDENTIFIER: usize = 0;
    pub const CONTROL_VERSION: usize = 8;
    pub const STATE: usize = 16;
    pub const CHECKPOINT: usize = 32;
    pub const CHECKPOINT_REDO: usize = 40;
    pub const CHECKPOINT_TIMELINE: usize = 48;
    pub const MIN_RECOVERY_POINT: usize = 136;
    pub const MIN_RECOVERY_TIMELINE: usize = 144;
    pub const WAL_LOG_HINTS: usize = 176;
    pub const FLOORS: usize = 180;
    pub const SEGMENT_BYTES: usize = 228;
    pub const CHECKSUM_VERSION: usize = 252;
    pub const CRC_15_TO_17: usize = 288;
    pub const CRC_18: usize = 292;
}

/// Reads the control file of a data directory.
pub fn read(data_dir: &Path) -> Result<ControlFile> {
    let path = data_dir.join("global/pg_control");
    let mut tries = 0;
    loop {
        let bytes = std::fs::read(&path).map_err(Error::io(|| format!("reading {}", path.display())))?;
        match parse(&bytes) {
            Ok(mut found) => {
                found.control.backup_label = data_dir.join("backup_label").exists();
                return Ok(found);
            }
            Err(why) if tries >= READS_MAX => return Err(Error::Refused(format!("{}: {why}", path.display()))),
            Err(_) => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

/// Reads the bytes of a control file. Of a backup label they know nothing.
pub fn parse(bytes: &[u8]) -> std::result::Result<ControlFile, String> {
    let version = u32_at(bytes, at::CONTROL_VERSION)?;
    let crc_at = match version {
        VERSION_15 | VERSION_17 => at::CRC_15_TO_17,
        VERSION_18 => at::CRC_18,
        other => return Err(format!("control file version {other} is not of PostgreSQL 15 to 18")),
    };
    let covered = bytes.get(..crc_at).ok_or("the control file is too short")?;
    if crc32c(covered) != u32_at(bytes, crc_at)? {
        return Err("the checksum of the control file does not match its content".to_owned());
    }
    let checksums = u32_at(bytes, at::CHECKSUM_VERSION)? != 0;
    let wal_log_hints = bytes.get(at::WAL_LOG_HINTS).is_some_and(|b| *b != 0);
    let mut floors = [0; 5];
    for (place, floor) in floors.iter_mut().enumerate() {
        *floor = u32_at(bytes, at::FLOORS + 4 * place)?.cast_signed();
    }
    Ok(ControlFile {
        control: Control {
            system_id: SystemId(u64_at(bytes, at::SYSTEM_IDENTIFIER)?),
            state: state(u32_at(bytes, at::STATE)?)?,
            timeline: Timeline(u32_at(bytes, at::CHECKPOINT_TIMELINE)?),
            checkpoint: Lsn(u64_at(bytes, at::CHECKPOINT)?),
            min_recovery_point: Lsn(u64_at(bytes, at::MIN_RECOVERY_POINT)?),
            min_recovery_timeline: Timeline(u32_at(bytes, at::MIN_RECOVERY_TIMELINE)?),
            can_be_rewound: checksums || wal_log_hints,
            backup_label: false,
        },
        redo: Lsn(u64_at(bytes, at::CHECKPOINT_REDO)?),
        segment_bytes: u32_at(bytes, at::SEGMENT_BYTES)?,
        checksums,
        wal_log_hints,
        floors,
    })
}

/// `DBState`.
fn state(value: u32) -> std::result::Result<ControlState, String> {
    match value {
        1 => Ok(ControlState::ShutDown),
        2 => Ok(ControlState::ShutDownInRecovery),
        3 => Ok(ControlState::ShuttingDown),
        4 => Ok(ControlState::InCrashRecovery),
        5 => Ok(ControlState::InArchiveRecovery),
        6 => Ok(ControlState::InProduction),
        other => Err(format!("the control file has an unknown cluster state {other}")),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> std::result::Result<u32, String> {
    let field = bytes.get(at..at + 4).and_then(|field| field.try_into().ok());
    field.map(u32::from_ne_bytes).ok_or_else(|| "the control file is too short".to_owned())
}

fn u64_at(bytes: &[u8], at: usize) -> std::result::Result<u64, String> {
    let field = bytes.get(at..at + 8).and_then(|field| field.try_into().ok());
    field.map(u64::from_ne_bytes).ok_or_else(|| "the control file is too short".to_owned())
}

/// CRC-32C (Castagnoli), as the server computes it. 300 bytes at a time need no table.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn a_short_or_foreign_file_is_refused() {
        assert!(parse(&[]).is_err());
        let mut foreign = vec![0; 8192];
        foreign[8..12].copy_from_slice(&1201_u32.to_ne_bytes());
        assert_eq!(parse(&foreign), Err("control file version 1201 is not of PostgreSQL 15 to 18".to_owned()));
        foreign[8..12].copy_from_slice(&VERSION_15.to_ne_bytes());
        assert!(parse(&foreign).is_err_and(|why| why.contains("checksum")));
    }

    /// First 512 bytes of what initdb of 16.14, 17.11 and 18.4 made, and what their `pg_controldata` says about it.
    #[test]
    fn control_files_of_other_majors_are_read() {
        let made = [
            (&include_bytes!("../tests/fixtures/pg_control.16")[..], 7_710_550_467_168_978_232, "0/16C2D50"),
            (&include_bytes!("../tests/fixtures/pg_control.17")[..], 7_710_639_272_213_957_571, "0/16C57F8"),
            (&include_bytes!("../tests/fixtures/pg_control.18")[..], 7_710_550_478_943_098_463, "0/16ED3E0"),
        ];
        for (bytes, system_id, checkpoint) in made {
            let file = parse(bytes).expect("a control file");
            assert_eq!(file.control.system_id, SystemId(system_id));
            assert_eq!(file.control.checkpoint.to_string(), checkpoint);
            assert_eq!((file.control.state, file.control.timeline), (ControlState::ShutDown, Timeline(1)));
            assert_eq!((file.checksums, file.wal_log_hints, file.segment_bytes), (true, false, 16 * 1024 * 1024));
            assert_eq!(file.floors, [100, 8, 10, 0, 64]);
            let mut damaged = bytes.to_vec();
            damaged[40] ^= 1;
            assert!(parse(&damaged).is_err());
        }
    }
}
