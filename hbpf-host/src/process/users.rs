//! Names of users.
//!
//! Read from the file itself: the C library would load whatever plug-ins the host has configured into the privileged
//! helper, and some of them ask the network.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use hbpf_core::label::Label;

use super::files;

/// Longest file that is read; with 60 bytes a user that is 17,000 of them.
const MAX_BYTES: usize = 1024 * 1024;

/// How often the file is looked at again.
const REFRESH: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Users {
    path: PathBuf,
    names: HashMap<u32, Label>,
    modified: Option<SystemTime>,
    looked_at: Option<Instant>,
}

impl Users {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, names: HashMap::new(), modified: None, looked_at: None }
    }

    pub(super) fn name(&mut self, uid: u32) -> Option<Label> {
        if self.looked_at.is_none_or(|when| when.elapsed() >= REFRESH) {
            self.looked_at = Some(Instant::now());
            self.refresh();
        }
        self.names.get(&uid).cloned()
    }

    fn refresh(&mut self) {
        let modified = std::fs::metadata(&self.path).and_then(|metadata| metadata.modified()).ok();
        if modified.is_some() && modified == self.modified {
            return;
        }
        self.modified = modified;
        let bytes = files::read(&self.path, MAX_BYTES).map(|contents| contents.bytes).unwrap_or_default();
        self.names = parse(&bytes);
    }
}

/// `NAME:PASSWORD:UID:...`; where two users share a number, the first one's name is used, as everywhere.
pub(super) fn parse(bytes: &[u8]) -> HashMap<u32, Label> {
    let mut names = HashMap::new();
    for line in files::lines(bytes) {
        let mut fields = line.split(|byte| *byte == b':');
        let (name, uid) = (fields.next().unwrap_or_default(), fields.nth(1).and_then(files::number));
        if let (false, Some(uid)) = (name.is_empty() || name.starts_with(b"#"), uid) {
            names.entry(uid).or_insert_with(|| Label::from_bytes(name));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_junk_is_passed_over() {
        let names =
            parse(b"root:x:0:0:root:/root:/bin/sh\n+::::::\n#a:x:5:\nbad\n:x:3:\ntoor:x:0:0\n\xff:x:7:7\nu:x:-1:1\n");
        assert_eq!(names.len(), 2);
        assert_eq!(names[&0].as_str(), "root");
        assert_eq!(names[&7].as_str(), "\u{fffd}");
    }

    #[test]
    fn a_missing_file_names_nobody() {
        assert_eq!(Users::new(PathBuf::from("/nonexistent")).name(0), None);
    }
}
