//! The beginning of a record that nobody completes, and that ends with a segment.
//!
//! A standby that needs the next segment for the record it is at, and has none, or one whose first page makes no sense, asks its leader
//! for that segment. A leader that leads on from before the record does not have it until its own log is as long. The server reads the
//! record anew, from its begin, only if the next page is one of the log and does not go on with the record: so that page is made.

use super::Context;
use crate::control_data::{self, ControlFile};
use crate::error::{Error, Result};
use crate::pgdata;
use ha_core::ids::{Lsn, Timeline};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A page begins with this many bytes of its own, the first of a segment with more.
const HEADER_BYTES: u64 = 24;
const LONG_HEADER_BYTES: u64 = 40;
/// Bits of a page's header: it begins with the rest of a record; its header is a long one.
const GOES_ON: u16 = 1;
const LONG: u16 = 2;
/// How much of a new segment is written at once.
const CHUNK_BYTES: u64 = 1 << 20;

/// Sees to it that a standby which follows whoever leads on from before such a record finds the record's begin again.
pub fn end(context: &Context) -> Result<()> {
    let data_dir = context.site.data_dir();
    let control = control_data::read(data_dir)?;
    if control.control.backup_label {
        return Ok(());
    }
    let log = Log { directory: data_dir.join("pg_wal"), segment_bytes: u64::from(control.segment_bytes) };
    for (timeline, fork) in forks(&log.directory, &control)? {
        if let Some((first, begins)) = log.after_half_a_record(timeline, fork, &control)? {
            let name = log.name(timeline, begins);
            tracing::warn!(
                "what was received of timeline {timeline} ends within a record, which begins at {fork} and is not in the history: \
                 {name} is made, so that the server asks for what comes at {fork} instead"
            );
            log.make(timeline, begins, &first)?;
        }
    }
    Ok(())
}

/// Where others left the timelines of these data, by the newest history file that is newer than the data. What is replayed must be in
/// that history.
fn forks(directory: &Path, control: &ControlFile) -> Result<Vec<(Timeline, Lsn)>> {
    let number = |path: &PathBuf| {
        let stem = path.file_name()?.to_str()?.strip_suffix(".history")?;
        u32::from_str_radix(stem, 16).ok().filter(|number| *number > control.control.timeline.0)
    };
    let mut files: Vec<(u32, PathBuf)> =
        pgdata::entries(directory)?.into_iter().filter_map(|path| Some((number(&path)?, path))).collect();
    files.sort_unstable();
    for (_, path) in files.into_iter().rev() {
        let text = std::fs::read_to_string(&path).map_err(Error::io(|| format!("reading {}", path.display())))?;
        let mut rows = ha_core::timeline::parse_history_file(&text);
        // One that says nothing stands for a number that nobody used.
        if !rows.is_empty() {
            let needed = control.control.min_recovery_point.max(control.control.checkpoint);
            rows.retain(|(timeline, fork)| *timeline >= control.control.timeline && *fork >= needed);
            return Ok(rows);
        }
    }
    Ok(Vec::new())
}

/// The write-ahead log of a stopped server.
struct Log {
    directory: PathBuf,
    segment_bytes: u64,
}

/// The header of a page.
struct Page {
    bytes: [u8; 40],
}

impl Page {
    fn u16_at(&self, at: usize) -> u16 {
        u16::from_ne_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    fn u32_at(&self, at: usize) -> u32 {
        u32::from_ne_bytes(std::array::from_fn(|byte| self.bytes[at + byte]))
    }

    fn u64_at(&self, at: usize) -> u64 {
        u64::from_ne_bytes(std::array::from_fn(|byte| self.bytes[at + byte]))
    }

    fn magic(&self) -> u16 {
        self.u16_at(0)
    }

    fn info(&self) -> u16 {
        self.u16_at(2)
    }

    fn address(&self) -> u64 {
        self.u64_at(8)
    }

    /// How much of a record that began before is left.
    fn rest(&self) -> u64 {
        u64::from(self.u32_at(16))
    }

    fn is_of(&self, control: &ControlFile) -> bool {
        self.info() & LONG != 0
            && self.u64_at(24) == control.control.system_id.0
            && self.u32_at(32) == control.segment_bytes
            && self.page_bytes().is_power_of_two()
            && (1024..=65536).contains(&self.page_bytes())
    }

    fn page_bytes(&self) -> u64 {
        u64::from(self.u32_at(36))
    }
}

impl Log {
    /// Where the segment begins that the record at `fork` goes on in, if the record fills those before it and that one is missing or
    /// makes no sense; with it the first page of the record's own segment.
    fn after_half_a_record(&self, timeline: Timeline, fork: Lsn, control: &ControlFile) -> Result<Option<(Page, u64)>> {
        let begins = fork.0 - fork.0 % self.segment_bytes;
        let Some(first) = self.page(timeline, begins)? else { return Ok(None) };
        if first.address() != begins || !first.is_of(control) {
            return Ok(None);
        }
        let page_bytes = first.page_bytes();
        let record = match (fork.0 % self.segment_bytes, fork.0 % page_bytes) {
            (0, _) => fork.0 + LONG_HEADER_BYTES,
            (_, 0) => fork.0 + HEADER_BYTES,
            _ => fork.0,
        };
        let length = u64::from(self.length_of(timeline, record)?);
        let mut next = begins + self.segment_bytes;
        loop {
            let last = self.page(timeline, next - page_bytes)?;
            let full = last.is_some_and(|page| page.address() == next - page_bytes && page.magic() == first.magic());
            let rest = length.saturating_sub(bytes_between(record, next, page_bytes, self.segment_bytes));
            if !full || rest == 0 {
                return Ok(None);
            }
            match self.page(timeline, next)? {
                Some(page) if page.address() == next && page.magic() == first.magic() => {
                    if page.info() & GOES_ON == 0 || page.rest() != rest {
                        return Ok(None);
                    }
                }
                _ => return Ok(Some((first, next))),
            }
            next += self.segment_bytes;
        }
    }

    /// The header of the page at `address`; `None` if there is no such file, or none that is whole.
    fn page(&self, timeline: Timeline, address: u64) -> Result<Option<Page>> {
        let mut bytes = [0; 40];
        Ok(self.read(timeline, address, &mut bytes)?.then_some(Page { bytes }))
    }

    fn length_of(&self, timeline: Timeline, record: u64) -> Result<u32> {
        let mut bytes = [0; 4];
        self.read(timeline, record, &mut bytes)?;
        Ok(u32::from_ne_bytes(bytes))
    }

    fn read(&self, timeline: Timeline, address: u64, bytes: &mut [u8]) -> Result<bool> {
        let path = self.directory.join(self.name(timeline, address));
        let mut read = || -> std::io::Result<bool> {
            let file = File::open(&path)?;
            let whole = file.metadata()?.len() == self.segment_bytes;
            if whole {
                file.read_exact_at(bytes, address % self.segment_bytes)?;
            }
            Ok(whole)
        };
        match read() {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            done => done.map_err(Error::io(|| format!("reading {}", path.display()))),
        }
    }

    fn name(&self, timeline: Timeline, address: u64) -> String {
        let number = address / self.segment_bytes;
        let in_one = 0x1_0000_0000 / self.segment_bytes;
        format!("{:08X}{:08X}{:08X}", timeline.0, number / in_one, number % in_one)
    }

    /// Makes the segment at `begins`: a page without anything on it, and zeros. It is never archived: the cluster has no such segment.
    fn make(&self, timeline: Timeline, begins: u64, first: &Page) -> Result<()> {
        let name = self.name(timeline, begins);
        let status = self.directory.join("archive_status");
        if status.join(format!("{name}.ready")).exists() {
            return Err(Error::Refused(format!("{name} waits for the archive, and makes no sense")));
        }
        pgdata::write_durably(&status.join(format!("{name}.done")), "")?;
        let mut page = Page { bytes: first.bytes };
        page.bytes[2..4].copy_from_slice(&LONG.to_ne_bytes());
        page.bytes[4..8].copy_from_slice(&timeline.0.to_ne_bytes());
        page.bytes[8..16].copy_from_slice(&begins.to_ne_bytes());
        page.bytes[16..24].fill(0);
        // The server removes files of this name when it begins recovery after a crash.
        let temporary = self.directory.join("xlogtemp.ha_ext.end");
        // Whoever may read the record's own segment may read this one.
        let begin = self.directory.join(self.name(timeline, first.address()));
        let made = self
            .write(&temporary, &page.bytes, &begin)
            .and_then(|()| std::fs::rename(&temporary, self.directory.join(&name)));
        made.map_err(|error| {
            let _ = std::fs::remove_file(&temporary);
            Error::io(|| format!("making {name}"))(error)
        })?;
        pgdata::sync_directory(&self.directory)
    }

    fn write(&self, path: &Path, first: &[u8], like: &Path) -> std::io::Result<()> {
        let mode = std::fs::metadata(like)?.mode() & 0o777;
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
        let zeros = vec![0; usize::try_from(CHUNK_BYTES.min(self.segment_bytes)).unwrap_or(0)];
        for _ in 0..self.segment_bytes / zeros.len() as u64 {
            file.write_all(&zeros)?;
        }
        file.write_all_at(first, 0)?;
        file.sync_all()
    }
}

/// How much of a record that begins at `record` fits before `end`, where a page begins.
fn bytes_between(record: u64, end: u64, page_bytes: u64, segment_bytes: u64) -> u64 {
    let next_page = record.next_multiple_of(page_bytes);
    let pages = (end - next_page) / page_bytes;
    let segments = end.div_ceil(segment_bytes) - next_page.div_ceil(segment_bytes);
    end - record - pages * HEADER_BYTES - segments * (LONG_HEADER_BYTES - HEADER_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ha_core::ids::SystemId;
    use ha_core::local::{Control, ControlState};

    const SEGMENT: u64 = 1 << 20;
    const PAGE: u64 = 8192;
    const ONE: Timeline = Timeline(1);
    const FORK: Lsn = Lsn(3 * SEGMENT + 5 * PAGE + 200);

    fn control() -> ControlFile {
        let control = Control {
            system_id: SystemId(77),
            state: ControlState::ShutDownInRecovery,
            timeline: ONE,
            checkpoint: Lsn(2 * SEGMENT),
            min_recovery_point: FORK,
            min_recovery_timeline: ONE,
            can_be_rewound: true,
            backup_label: false,
        };
        let segment_bytes = u32::try_from(SEGMENT).expect("it fits");
        ControlFile { control, redo: Lsn(0), segment_bytes, checksums: true, wal_log_hints: false, floors: [0; 5] }
    }

    /// A log whose last segments hold the beginning of one record of so many bytes, which begins at the fork and is there up to `end`.
    fn log(name: &str, length: u32, end: u64) -> Log {
        let directory = std::env::temp_dir().join(format!("ha_half_record_{name}_{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(directory.join("archive_status")).expect("a directory");
        let log = Log { directory, segment_bytes: SEGMENT };
        for segment in (3 * SEGMENT..end).step_by(1 << 20) {
            let mut bytes = Vec::new();
            for page in (segment..segment + SEGMENT).step_by(8192) {
                let mut header = vec![0; 8192];
                if page < end {
                    let done = bytes_between(FORK.0, page.max(FORK.0.next_multiple_of(PAGE)), PAGE, SEGMENT);
                    let rest =
                        if page > FORK.0 { length.saturating_sub(u32::try_from(done).expect("it fits")) } else { 0 };
                    let info = u16::from(rest > 0) | if page == segment { LONG } else { 0 };
                    header[0..2].copy_from_slice(&0xD110_u16.to_ne_bytes());
                    header[2..4].copy_from_slice(&info.to_ne_bytes());
                    header[4..8].copy_from_slice(&1_u32.to_ne_bytes());
                    header[8..16].copy_from_slice(&page.to_ne_bytes());
                    header[16..20].copy_from_slice(&rest.to_ne_bytes());
                    header[24..32].copy_from_slice(&77_u64.to_ne_bytes());
                    header[32..36].copy_from_slice(&control().segment_bytes.to_ne_bytes());
                    header[36..40].copy_from_slice(&8192_u32.to_ne_bytes());
                }
                if page == FORK.0 - FORK.0 % PAGE {
                    header[200..204].copy_from_slice(&length.to_ne_bytes());
                }
                bytes.extend(header);
            }
            std::fs::write(log.directory.join(log.name(ONE, segment)), bytes).expect("written");
        }
        log
    }

    fn found(log: &Log) -> Option<u64> {
        log.after_half_a_record(ONE, FORK, &control()).expect("readable").map(|(_, begins)| begins)
    }

    #[test]
    fn what_fits_into_pages_is_counted() {
        assert_eq!(bytes_between(100, 2 * PAGE, PAGE, 2 * PAGE), PAGE - 100 + PAGE - 24);
        assert_eq!(bytes_between(100, 4 * PAGE, PAGE, 2 * PAGE), PAGE - 100 + 2 * (PAGE - 24) + PAGE - 40);
        assert_eq!(bytes_between(40, 2 * PAGE, PAGE, 2 * PAGE), PAGE - 40 + PAGE - 24);
    }

    #[test]
    fn a_record_that_fills_its_segments_is_ended_once() {
        for (name, end) in [("one", 4 * SEGMENT), ("three", 6 * SEGMENT)] {
            let log = log(name, 5_000_000, end);
            assert_eq!(found(&log), Some(end), "{name}");
            let (first, begins) = log.after_half_a_record(ONE, FORK, &control()).expect("readable").expect("half");
            log.make(ONE, begins, &first).expect("made");
            let made = log.page(ONE, end).expect("readable").expect("it is there");
            assert_eq!((made.address(), made.info(), made.rest(), made.u32_at(4)), (end, LONG, 0, 1));
            assert!(made.is_of(&control()) && made.magic() == 0xD110);
            assert!(log.directory.join(format!("archive_status/{}.done", log.name(ONE, end))).exists());
            assert_eq!(found(&log), None, "{name}: it is there");
            std::fs::remove_dir_all(&log.directory).expect("cleaned");
        }
    }

    #[test]
    fn a_segment_with_older_contents_counts_as_none() {
        let log = log("old", 5_000_000, 5 * SEGMENT);
        let old = log.directory.join(log.name(ONE, 3 * SEGMENT));
        std::fs::copy(old, log.directory.join(log.name(ONE, 5 * SEGMENT))).expect("copied");
        assert_eq!(found(&log), Some(5 * SEGMENT));
        std::fs::remove_dir_all(&log.directory).expect("cleaned");
    }

    #[test]
    fn nothing_is_made_for_a_whole_record_nor_where_the_server_gets_over_it() {
        let whole = u32::try_from(bytes_between(FORK.0, 5 * SEGMENT, PAGE, SEGMENT)).expect("it fits");
        // Whole; whole with the last byte of a segment; empty; ends before the last page of a segment.
        let cases = [("whole", 1000, 4 * SEGMENT), ("exact", whole, 5 * SEGMENT), ("none", 0, 4 * SEGMENT)];
        for (name, length, end) in cases.into_iter().chain([("within", 5_000_000, 5 * SEGMENT - PAGE)]) {
            let log = log(name, length, end);
            assert_eq!(found(&log), None, "{name}");
            std::fs::remove_dir_all(&log.directory).expect("cleaned");
        }
        let log = log("one_more", whole + 1, 5 * SEGMENT);
        assert_eq!(found(&log), Some(5 * SEGMENT));
        std::fs::remove_dir_all(&log.directory).expect("cleaned");
    }

    #[test]
    fn the_newest_history_that_says_something_counts() {
        let log = log("history", 0, 4 * SEGMENT);
        let write = |name: &str, text: &str| std::fs::write(log.directory.join(name), text).expect("written");
        let forks = || forks(&log.directory, &control()).expect("readable");
        assert_eq!(forks(), []);
        write("00000002.history", "1\t0/100000\tbefore what is replayed\n");
        assert_eq!(forks(), []);
        write("00000003.history", &format!("1\t{FORK}\tno recovery target\n2\t0/900000\tno\n"));
        write("00000004.history", "# claimed by another node and never used\n");
        assert_eq!(forks(), [(ONE, FORK), (Timeline(2), Lsn(0x90_0000))]);
        std::fs::remove_dir_all(&log.directory).expect("cleaned");
    }
}
