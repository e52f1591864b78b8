//! The thread of a worker that changes files hangs: it reads the node's file, which is a pipe that nobody writes to.

use crate::daemon::run;
use crate::node::Node;
use crate::wait::{poll, secs};
use rustix::fs::OFlags;
use rustix::process::Signal;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// While it is there, nothing of what the worker asks for after it is done.
#[derive(Debug)]
pub struct HungFile {
    file: PathBuf,
    text: String,
}

impl HungFile {
    /// From now on the thread hangs, once it is through with what it was asked for before.
    #[must_use]
    pub fn begin(node: &Node) -> Self {
        let file = node.file();
        let text = fs::read_to_string(&file).expect("a node has a file");
        let new = file.with_extension("new");
        run(&["mkfifo", "-m", "644", &new.to_string_lossy()]).expect("a named pipe can be made");
        fs::rename(&new, &file).expect("it takes the place of the file");
        node.worker().expect("a running server has a loop worker").signal(Signal::HUP);
        Self { file, text }
    }

    /// The thread goes on, and the file is what it was.
    pub fn end(self) {
        let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).expect("flags are small");
        let open = || fs::OpenOptions::new().write(true).custom_flags(nonblocking).open(&self.file).ok();
        let mut pipe = poll(secs(10), open).expect("somebody reads the file");
        pipe.write_all(self.text.as_bytes()).expect("a pipe takes a small file");
        let new = self.file.with_extension("new");
        fs::write(&new, &self.text).and_then(|()| fs::rename(&new, &self.file)).expect("the file can be put back");
    }
}
