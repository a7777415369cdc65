//! Block devices and accelerators by their numbers.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hbpf_core::label::Label;
use hbpf_ebpf::{DEVICE_MINOR_BITS, DEVICE_MINOR_MASK, device_number};

use crate::process::files;
use crate::protocol::Event;

pub(crate) const PROC: &str = "/proc";
pub(crate) const SYS: &str = "/sys";

/// Longest of the files that are read here: a driver or a property a line.
const MAX_BYTES: usize = 64 * 1024;

/// Most partitions: as many as the kernel's map takes.
const MAX_PARTITIONS: usize = 1024;

/// Most names kept: a large host has hundreds of disks.
const MAX_NAMES: usize = 1024;

/// How long names are believed.
const NAMES_HOLD: Duration = Duration::from_secs(60);

/// Whether a device is one of blocks or one of characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Block,
    Character,
}

/// Names that have been looked up.
#[derive(Debug)]
pub(crate) struct Names {
    proc: PathBuf,
    found: HashMap<(Kind, u32), Label>,
    /// When the first of them was looked up.
    since: Option<Instant>,
}

impl Names {
    /// None yet; drivers are looked up in this `/proc`.
    pub(crate) fn new(proc: PathBuf) -> Self {
        Self { proc, found: HashMap::new(), since: None }
    }

    /// The name of the device that an event is about; empty where it is about none.
    pub(crate) fn of_event(&mut self, event: Event, device: u32) -> Label {
        let kind = match event {
            Event::DiskRead | Event::DiskWrite | Event::DiskOther => Kind::Block,
            Event::Opened => Kind::Character,
            Event::Connected | Event::ConnectFailed | Event::Retransmitted | Event::Reset => return Label::default(),
        };
        self.of(kind, device)
    }

    /// The name of a device.
    pub(crate) fn of(&mut self, kind: Kind, device: u32) -> Label {
        // Disks come and go, and a number may be another's by now.
        if self.found.len() >= MAX_NAMES || self.since.is_none_or(|since| since.elapsed() >= NAMES_HOLD) {
            self.found.clear();
            self.since = Some(Instant::now());
        }
        let Self { proc, found, .. } = self;
        found.entry((kind, device)).or_insert_with(|| name_of(proc, SYS.as_ref(), kind, device)).clone()
    }
}

/// Numbers and names of accelerators' drivers: NVIDIA's several, those of Linux's graphics and compute devices, and AMD's
/// compute device.
pub(crate) fn drivers(proc: &Path) -> Vec<(u32, String)> {
    let bytes = files::read(&proc.join("devices"), MAX_BYTES).map(|file| file.bytes).unwrap_or_default();
    let characters = files::lines(&bytes).take_while(|line| !line.starts_with(b"Block"));
    let driver = |line: &[u8]| {
        let mut fields = files::fields(line);
        let (major, name) = (files::number(fields.next()?)?, std::str::from_utf8(fields.next()?).ok()?);
        let is_accelerator = name.starts_with("nvidia") || matches!(name, "drm" | "accel" | "kfd");
        is_accelerator.then(|| (major, name.to_owned()))
    };
    characters.filter_map(driver).collect()
}

/// The name of a device under `/dev`, as far as it can be found; else its driver's and its minor number, or both numbers.
fn name_of(proc: &Path, sys: &Path, kind: Kind, device: u32) -> Label {
    let (major, minor) = (device >> DEVICE_MINOR_BITS, device & DEVICE_MINOR_MASK);
    let class = match kind {
        Kind::Block => "block",
        Kind::Character => "char",
    };
    let properties = sys.join("dev").join(class).join(format!("{major}:{minor}/uevent"));
    if let Ok(file) = files::read(&properties, MAX_BYTES)
        && let Some(name) = files::lines(&file.bytes).find_map(|line| line.strip_prefix(b"DEVNAME="))
    {
        return Label::from_bytes(name);
    }
    // NVIDIA's devices are not in sysfs.
    let driver = drivers(proc).into_iter().find(|(number, _)| kind == Kind::Character && *number == major);
    match driver {
        Some((_, driver)) => Label::new(&nvidia_name(&driver, minor)),
        None => Label::new(&format!("{major}:{minor}")),
    }
}

/// What `nvidia-modprobe` calls its devices.
fn nvidia_name(driver: &str, minor: u32) -> String {
    match (driver, minor) {
        ("nvidia" | "nvidia-frontend", 255) => "nvidiactl".into(),
        ("nvidia" | "nvidia-frontend" | "nvidia-modeset", 254) => "nvidia-modeset".into(),
        ("nvidia" | "nvidia-frontend", minor) => format!("nvidia{minor}"),
        ("nvidia-uvm", 0) => "nvidia-uvm".into(),
        ("nvidia-uvm", 1) => "nvidia-uvm-tools".into(),
        (driver, minor) => format!("{driver}:{minor}"),
    }
}

/// The number of each partition, and that of the disk that it is of, in the kernel's own count.
pub(crate) fn partitions(sys: &Path) -> Vec<(u32, u32)> {
    let Ok(entries) = fs::read_dir(sys.join("class/block")) else { return Vec::new() };
    let number_in = |directory: &Path| {
        let file = files::read(&directory.join("dev"), MAX_BYTES).ok()?;
        let text = std::str::from_utf8(&file.bytes).ok()?;
        let (major, minor) = text.trim().split_once(':')?;
        let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
        (major < 1 << (32 - DEVICE_MINOR_BITS) && minor <= DEVICE_MINOR_MASK).then_some(device_number(major, minor))
    };
    let pair = |entry: std::io::Result<fs::DirEntry>| {
        // A link into the tree of devices, where the disk is the directory above.
        let place = fs::canonicalize(entry.ok()?.path()).ok()?;
        place.join("partition").exists().then_some(())?;
        Some((number_in(&place)?, number_in(place.parent()?)?))
    };
    entries.filter_map(pair).take(MAX_PARTITIONS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> tempfile::TempDir {
        let tree = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = tree.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let devices = "Character devices:\n  1 mem\n195 nvidia-frontend\n226 drm\n234 nvidia-uvm\n237 nvidia-caps\n\
            511 kfd\nx y\n\nBlock devices:\n253 nvidia-not\n259 blkext\n";
        write("proc/devices", devices);
        write("sys/devices/nvme0n1/dev", "259:0\n");
        write("sys/devices/nvme0n1/nvme0n1p2/dev", "259:2\n");
        write("sys/devices/nvme0n1/nvme0n1p2/partition", "2\n");
        write("sys/devices/bad/dev", "70000:x\n");
        write("sys/devices/bad/partition", "2\n");
        write("sys/dev/block/259:0/uevent", "MAJOR=259\nMINOR=0\nDEVNAME=nvme0n1\n");
        write("sys/dev/char/226:128/uevent", "DEVNAME=dri/renderD128\n");
        let class = tree.path().join("sys/class/block");
        fs::create_dir_all(&class).unwrap();
        for (name, target) in [("nvme0n1", "nvme0n1"), ("nvme0n1p2", "nvme0n1/nvme0n1p2"), ("bad", "bad")] {
            std::os::unix::fs::symlink(format!("../../devices/{target}"), class.join(name)).unwrap();
        }
        tree
    }

    #[test]
    fn accelerators_are_known_by_their_drivers() {
        let tree = tree();
        let found = drivers(&tree.path().join("proc"));
        let majors: Vec<u32> = found.iter().map(|(major, _)| *major).collect();
        assert_eq!(majors, [195, 226, 234, 237, 511]);
    }

    #[test]
    fn devices_have_the_names_that_they_have_under_dev() {
        let tree = tree();
        let (proc, sys) = (tree.path().join("proc"), tree.path().join("sys"));
        let named = |kind, major, minor| name_of(&proc, &sys, kind, device_number(major, minor)).to_string();
        assert_eq!(named(Kind::Block, 259, 0), "nvme0n1");
        assert_eq!(named(Kind::Block, 195, 0), "195:0");
        assert_eq!(named(Kind::Character, 226, 128), "dri/renderD128");
        for (major, minor, expected) in [
            (195, 0, "nvidia0"),
            (195, 17, "nvidia17"),
            (195, 255, "nvidiactl"),
            (195, 254, "nvidia-modeset"),
            (234, 0, "nvidia-uvm"),
            (234, 1, "nvidia-uvm-tools"),
            (237, 3, "nvidia-caps:3"),
            (9, 9, "9:9"),
        ] {
            assert_eq!(named(Kind::Character, major, minor), expected);
        }
    }

    #[test]
    fn partitions_are_of_their_disks() {
        let tree = tree();
        let of = |minor| device_number(259, minor);
        assert_eq!(partitions(&tree.path().join("sys")), [(of(2), of(0))]);
        assert_eq!(partitions(Path::new("/nonexistent")), []);
    }
}
