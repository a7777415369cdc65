//! Finds the TLS libraries that processes have loaded, and where to put probes in them.
//!
//! Libraries are found in the memory maps of processes. Reading a map is the dear part, so it is read again only where
//! the cheap line in `/proc/PID/stat` says that the process has changed, and only so many are read per call.
//!
//! A probe belongs to an inode, so libraries are told apart by device and inode, never by path. An overlay lies in the
//! way: it gives each container its own device for what is one file underneath, and a probe on each would fire twice
//! for one call. So the file is looked for in the overlay's layers (`mapped`). Where it is not found, two files of which
//! at least one is seen through an overlay are one if build id and size are equal and they share their memory; where
//! memory is not shown to us, if inode number and all times are equal. Should that fail too, the kernel side's own check
//! against double hits remains.
//!
//! What a process has mapped is settled when it is first seen: neither a new file under the old name nor the copy that an
//! overlay makes upon a write takes the place of what is mapped. Only a file that is written in place becomes another.

pub(crate) mod elf;
mod go;
mod inside;
mod known;
#[cfg(test)]
mod lies;
mod mapped;
mod maps;
mod mounts;
mod overlay;
mod pages;
mod placement;
mod reports;
mod seen;
mod stdio;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hbpf_core::label::Label;
use hbpf_core::snapshot::TlsVisibility;

use crate::process::files;
use crate::process::stat::Stat;
use elf::Inspection;
use known::{Files, Finding};
use mapped::{FileKey, Mapped, Opener, Stamp};
use maps::Mapping;
use seen::{Found, Process};
use watch::Watch;

pub use elf::Symbol;
pub(crate) use maps::Maps;
pub use placement::Place;
pub(crate) use stdio::{StdioLibrary, StdioServer, StdioServers};

/// Places in a file that may be anything: the door through which fuzzing comes in.
#[doc(hidden)]
pub fn symbols_in(file: &[u8]) -> Option<Vec<(Symbol, u64)>> {
    elf::inspect(std::io::Cursor::new(file), file.len() as u64).ok().map(|found| found.symbols)
}

/// Maps read per call, at 80 us each.
const MAPS_PER_SCAN: usize = 128;

/// CPU time per call after which the rest is left to the next: requests wait for the helper meanwhile. Looking at a process
/// that has not changed takes 10 to 20 us, so it takes several calls to get round thousands of them.
const CPU_PER_SCAN: Duration = Duration::from_millis(10);

/// How long a library stays after its last user: short commands in a loop would otherwise have their probes come and
/// go, always too late.
pub const LINGER: Duration = Duration::from_secs(30);

/// Mapped files per process that are looked into. Real ones have three at most: a program, its library, a wheel's copy.
const MAX_CANDIDATES: usize = 16;

/// Libraries at a time. A host with a hundred different container images has about that many.
const MAX_LIBRARIES: usize = 512;

/// Entries read per system directory; a full one has some thousands.
const MAX_ENTRIES: usize = 65_536;

/// Where distributions keep shared libraries.
pub fn system_directories() -> Vec<PathBuf> {
    let multiarch = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let fixed = ["/usr/lib64", "/usr/lib", "/usr/local/lib64", "/usr/local/lib"];
    std::iter::once(multiarch.as_str()).chain(fixed).map(PathBuf::from).collect()
}

/// Names one library file for as long as [`Libraries`] knows it. Never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LibraryId(u64);

impl fmt::Display for LibraryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A library (or a program that carries one) into which probes can be put.
#[derive(Debug)]
pub struct Library {
    /// Its identity.
    pub id: LibraryId,
    /// Its path as the process that was found with it sees it.
    pub path: Label,
    /// The file, open for reading. It is the mapped file itself, also where its path leads elsewhere by now.
    pub file: Arc<File>,
    /// Functions found and their offsets in the file, sorted. A function can be at several places.
    pub symbols: Vec<(Symbol, u64)>,
    /// Where to put the probes for them.
    pub places: Vec<Place>,
    /// Its version, as far as its own name for itself tells (`3` of `libssl.so.3`); the Go that has made a program, or which
    /// builds have such code inside.
    pub version: Option<Label>,
}

/// What a scan found out.
#[derive(Debug, Default)]
pub struct Changes {
    /// Libraries to put probes into.
    pub added: Vec<Library>,
    /// Libraries that nobody uses any more, or that have been written over: to be detached. They come before `added`.
    pub removed: Vec<LibraryId>,
    /// Processes of which more, less or something else can be seen than before.
    pub processes: Vec<u32>,
}

/// All TLS libraries in use on this machine.
#[derive(Debug)]
pub struct Libraries {
    proc_root: PathBuf,
    linger: Duration,
    processes: HashMap<u32, Process>,
    files: Files,
    libraries: HashMap<LibraryId, InUse>,
    last_id: u64,
    /// Rounds through all processes that have been begun.
    scans: u64,
    /// Processes that are left of this round, the next one last.
    left: Vec<u32>,
    /// Where the system keeps libraries; see [`Libraries::scan_installed`].
    directories: Vec<PathBuf>,
    watch: Watch,
    /// hbpf's own program, which speaks TLS to collectors and agents and to no model, once it was looked for.
    own: Option<Option<FileKey>>,
}

#[derive(Debug)]
struct InUse {
    path: Label,
    file: Arc<File>,
    stamp: Stamp,
    inode: u64,
    overlay: bool,
    build_id: Option<Vec<u8>>,
    users: BTreeSet<u32>,
    unused_since: Option<Instant>,
    /// It stays without users: see [`Libraries::scan_installed`].
    installed: bool,
}

impl Libraries {
    /// Knows nothing yet. `proc_root` is `/proc`, but in tests.
    pub fn new(proc_root: PathBuf) -> Self {
        Self {
            proc_root,
            linger: LINGER,
            processes: HashMap::new(),
            files: Files::default(),
            libraries: HashMap::new(),
            last_id: 0,
            scans: 0,
            left: Vec::new(),
            directories: Vec::new(),
            watch: Watch::new(),
            own: None,
        }
    }

    /// Sets how long a library stays after its last user; [`LINGER`] if never called.
    pub fn set_linger(&mut self, linger: Duration) {
        self.linger = linger;
    }

    /// Looks at the processes again; unchanged ones cost little. Work per call is bounded: what is left over is looked
    /// at by the next call.
    pub fn scan(&mut self) -> Changes {
        let mut changes = self.take_news();
        let end = files::cpu_time() + CPU_PER_SCAN;
        if self.left.is_empty() {
            self.begin_round();
        }
        let root = self.proc_root.clone();
        let mut opener = Opener::new(&root);
        let mut maps_left = MAPS_PER_SCAN;
        while maps_left > 0
            && let Some(pid) = self.left.pop()
        {
            maps_left -= usize::from(self.look_at(pid, &mut opener, &mut changes, false));
            if files::cpu_time() > end {
                break;
            }
        }
        self.drop_unused(&mut changes);
        changes
    }

    /// Whether the last scan has left processes to the next.
    pub fn is_midway(&self) -> bool {
        !self.left.is_empty()
    }

    fn begin_round(&mut self) {
        self.scans += 1;
        let pids = files::pids(&self.proc_root);
        self.forget_all_but(&pids);
        let (known, mut new): (Vec<u32>, Vec<u32>) = pids.iter().partition(|pid| self.processes.contains_key(pid));
        self.left = known;
        // The newest numbers are the likeliest to be short-lived: they cannot wait.
        self.left.append(&mut new);
    }

    /// Looks for libraries where the system keeps them, used or not: probes that wait in them see the first call of a
    /// command that lives for 50 ms, and cost nothing while nobody calls. From then on upgrades are noticed.
    pub fn scan_installed(&mut self, directories: &[PathBuf]) -> Changes {
        self.directories = directories.to_vec();
        // Watched before they are read, or what comes in between would go unnoticed.
        directories.iter().for_each(|directory| self.watch.directory(directory));
        let mut changes = Changes::default();
        self.find_installed(&mut changes);
        changes
    }

    fn find_installed(&mut self, changes: &mut Changes) {
        let mut installed = HashSet::new();
        for directory in self.directories.clone() {
            let Ok(entries) = std::fs::read_dir(directory) else { continue };
            for entry in entries.take(MAX_ENTRIES).flatten() {
                let path = entry.path();
                if !known::is_tls_library(entry.file_name().as_encoded_bytes()) {
                    continue;
                }
                // What cannot be read now is said when a process uses it.
                let Ok(file) = mapped::open_regular(&path) else { continue };
                // Under the name that the maps of its users show, not that of a link to it.
                let path = path.canonicalize().unwrap_or(path).into_os_string().into_encoded_bytes();
                if let Ok(Identified::Library(id)) = self.identify_file(file, &path, changes) {
                    installed.insert(id);
                }
            }
        }
        // What an upgrade has replaced stays for as long as it is used.
        self.libraries.iter_mut().for_each(|(id, library)| library.installed = installed.contains(id));
    }

    /// Looks at one process now, whatever is known of it.
    pub fn scan_pid(&mut self, pid: u32) -> Changes {
        let mut changes = self.take_news();
        let root = self.proc_root.clone();
        self.look_at(pid, &mut Opener::new(&root), &mut changes, true);
        self.drop_unused(&mut changes);
        changes
    }

    /// Becomes readable when [`Libraries::take_news`] has something to say.
    pub fn news_fd(&self) -> Option<BorrowedFd<'_>> {
        self.watch.fd()
    }

    /// Libraries that have been written over, and those that an upgrade has brought.
    pub fn take_news(&mut self) -> Changes {
        let mut changes = Changes::default();
        let happened = self.watch.take(|name| known::is_tls_library(name.as_encoded_bytes()));
        happened.written.into_iter().for_each(|id| self.remove(id, &mut changes));
        if happened.directories {
            self.find_installed(&mut changes);
        }
        changes
    }

    /// The process has ended. What it alone used is in the `removed` of a later scan.
    pub fn forget(&mut self, pid: u32) {
        if let Some(process) = self.processes.remove(&pid) {
            self.leave(pid, &process.found.libraries);
        }
    }

    /// Processes that have the library loaded.
    pub fn users(&self, id: &LibraryId) -> impl Iterator<Item = u32> + '_ {
        self.libraries.get(id).into_iter().flat_map(|library| library.users.iter().copied())
    }

    /// What can be seen of the TLS traffic of a process if probes are in all libraries that were reported; why not all
    /// of it; and the library that is probed.
    pub fn visibility(&self, pid: u32) -> (TlsVisibility, Option<String>, Option<Label>) {
        let Some(Process { found, .. }) = self.processes.get(&pid) else {
            return (TlsVisibility::None, None, None);
        };
        let library = found.libraries.first().and_then(|id| self.libraries.get(id)).map(|library| library.path.clone());
        let reason = found.trouble.clone().or_else(|| found.other.as_ref().map(Label::to_string));
        let visibility = match (&library, &reason) {
            (None, None) => TlsVisibility::None,
            (None, Some(_)) => TlsVisibility::Blind,
            (Some(_), None) => TlsVisibility::Attached,
            (Some(_), Some(_)) => TlsVisibility::Partial,
        };
        (visibility, reason, library)
    }

    fn forget_all_but(&mut self, pids: &[u32]) {
        let gone: Vec<u32> = self.processes.keys().filter(|pid| pids.binary_search(pid).is_err()).copied().collect();
        for pid in gone {
            self.forget(pid);
        }
    }

    fn leave(&mut self, pid: u32, libraries: &BTreeSet<LibraryId>) {
        for id in libraries {
            if let Some(library) = self.libraries.get_mut(id) {
                library.users.remove(&pid);
            }
        }
    }

    /// Brings what is known of a process up to date. Says whether its map was read.
    fn look_at(&mut self, pid: u32, opener: &mut Opener<'_>, changes: &mut Changes, certainly: bool) -> bool {
        let Some(stat) = Stat::read(&self.proc_root, pid) else {
            self.forget(pid);
            return false;
        };
        let needed = certainly || self.processes.get(&pid).is_none_or(|process| process.is_outdated(&stat, self.scans));
        if !needed {
            return false;
        }
        let before = self.processes.remove(&pid);
        let settled = before.as_ref().filter(|before| !before.is_another(&stat));
        let settled = settled.map(|before| before.found.settled.clone()).unwrap_or_default();
        let found = if stat.kernel_thread { Found::default() } else { self.find(pid, settled, opener, changes) };
        for id in &found.libraries {
            if let Some(library) = self.libraries.get_mut(id) {
                library.users.insert(pid);
            }
        }
        let before = before.map(|before| before.found).unwrap_or_default();
        if !found.shows_as(&before) {
            changes.processes.push(pid);
        }
        self.leave(pid, &before.libraries.difference(&found.libraries).copied().collect());
        self.processes.insert(pid, Process::new(&stat, self.scans, found));
        !stat.kernel_thread
    }

    /// The file of hbpf's own program, which may lie in an overlay as others do.
    fn own_program(&self, opener: &mut Opener<'_>) -> Option<FileKey> {
        let pid = std::process::id();
        let program = program(&self.proc_root, pid)?;
        let maps = Maps::read(&self.proc_root, pid).ok()?;
        let mapping = maps.executable.iter().find(|mapping| mapping.path == program)?;
        Some(opener.open(pid, mapping).ok()?.key)
    }

    /// Looks through the map of a process.
    fn find(
        &mut self,
        pid: u32,
        settled: Vec<(Mapping, LibraryId)>,
        opener: &mut Opener<'_>,
        changes: &mut Changes,
    ) -> Found {
        if self.own.is_none() {
            self.own = Some(self.own_program(opener));
        }
        let mut found = Found::default();
        let maps = match Maps::read(&self.proc_root, pid) {
            Ok(maps) => maps,
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                found.trouble = Some("hbpf may not read its memory map".to_owned());
                return found;
            }
            // It has ended.
            Err(_) => return found,
        };
        if maps.truncated {
            found.trouble = Some("its memory map is too long to be read whole".to_owned());
        }
        let program = program(&self.proc_root, pid);
        let mut seen = HashSet::new();
        for mapping in maps.executable {
            let name = known::basename(&mapping.path);
            if let Some(unprobed) = known::unprobed(name).filter(|_| found.other.is_none()) {
                found.other = Some(Label::new(&format!("{unprobed} is loaded, which hbpf does not probe")));
            }
            let named = known::may_speak_tls(name);
            // The same name may stand for a file and for what has replaced it.
            let file = (mapping.device, mapping.inode, mapping.path.clone());
            if !(named || program.as_ref() == Some(&mapping.path)) || seen.contains(&file) {
                continue;
            }
            if seen.len() == MAX_CANDIDATES {
                found.trouble = Some(format!("it has more than {MAX_CANDIDATES} files loaded that look like libssl"));
                break;
            }
            let before = settled.iter().find(|(other, _)| other.is_as_before(&mapping)).map(|(_, id)| *id);
            let identified = match before {
                Some(id) => Ok(Identified::Library(id)),
                None => self.identify(pid, &mapping, opener, changes),
            };
            match identified {
                Ok(Identified::Library(id)) => {
                    found.libraries.insert(id);
                    found.settled.push((mapping, id));
                }
                Ok(Identified::Unreadable(why)) => drop(found.other.get_or_insert(why)),
                Ok(Identified::Nothing) => {}
                // Of a program alone nobody expects that it is a TLS library.
                Err(why) if known::is_tls_library(name) => {
                    found.trouble.get_or_insert(format!("{} {why}", Label::from_bytes(&mapping.path)));
                }
                Err(_) => {}
            }
            seen.insert(file);
        }
        found
    }

    /// Finds out which library a mapped file is.
    fn identify(
        &mut self,
        pid: u32,
        mapping: &Mapping,
        opener: &mut Opener<'_>,
        changes: &mut Changes,
    ) -> Result<Identified, String> {
        let mapped = opener.open(pid, mapping).map_err(|refusal| refusal.to_string())?;
        let root = std::fs::read_link(files::process(&self.proc_root, pid).join("root"));
        let root = root.map(|root| root.into_os_string().into_encoded_bytes()).unwrap_or_default();
        self.identify_file(mapped, inside(&mapping.path, &root), changes)
    }

    fn identify_file(&mut self, mapped: Mapped, path: &[u8], changes: &mut Changes) -> Result<Identified, String> {
        if self.own.flatten() == Some(mapped.key) {
            return Ok(Identified::Nothing);
        }
        match self.files.look_up(&mapped, self.scans) {
            Finding::Library(id) => return Ok(Identified::Library(id)),
            Finding::Nothing => return Ok(Identified::Nothing),
            Finding::Unreadable(why) => return Ok(Identified::Unreadable(why)),
            Finding::Refused(refusal) => return Err(refusal.to_string()),
            // In an overlay it may be a copy beside the original, which others have mapped still.
            Finding::New { replaces: Some(id) } if !mapped.overlay => self.remove(id, changes),
            Finding::New { .. } => {}
        }
        let inspection = match elf::inspect(&mapped.file, mapped.stamp.size) {
            Ok(inspection) => inspection,
            Err(refusal) => {
                self.files.remember_refused(&mapped, refusal, self.scans);
                return Err(refusal.to_string());
            }
        };
        if let Some(why) = inspection.unreadable {
            let why = Label::new(&why);
            self.files.remember_unreadable(&mapped, why.clone(), self.scans);
            return Ok(Identified::Unreadable(why));
        }
        if inspection.symbols.is_empty() {
            self.files.remember_nothing(&mapped, self.scans);
            return Ok(Identified::Nothing);
        }
        if let Some(id) = self.twin(&mapped, &inspection) {
            self.files.remember_library(&mapped, id, self.scans);
            return Ok(Identified::Library(id));
        }
        if self.libraries.len() >= MAX_LIBRARIES {
            return Err(format!("is one too many: {MAX_LIBRARIES} libraries are probed already"));
        }
        self.last_id += 1;
        let id = LibraryId(self.last_id);
        self.files.remember_library(&mapped, id, self.scans);
        let path = Label::from_bytes(path);
        let file = Arc::new(mapped.file);
        let library = InUse {
            path: path.clone(),
            file: file.clone(),
            stamp: mapped.stamp,
            inode: mapped.key.inode,
            overlay: mapped.overlay,
            build_id: inspection.build_id,
            users: BTreeSet::new(),
            unused_since: None,
            installed: false,
        };
        self.watch.file(&file, id);
        self.libraries.insert(id, library);
        changes.added.push(Library {
            id,
            path,
            file,
            version: inspection.version.or_else(|| known::version(inspection.soname.as_deref()?)),
            symbols: inspection.symbols,
            places: inspection.places,
        });
        Ok(Identified::Library(id))
    }

    /// The library that is this same file, seen through an overlay (see the head of this module).
    fn twin(&self, mapped: &Mapped, inspection: &Inspection) -> Option<LibraryId> {
        let is_it = |library: &InUse| {
            (library.overlay || mapped.overlay)
                && library.stamp.size == mapped.stamp.size
                && library.build_id == inspection.build_id
                && pages::are_one(&library.file, &mapped.file)
                    .unwrap_or_else(|| library.inode == mapped.key.inode && library.stamp == mapped.stamp)
        };
        self.libraries.iter().find(|(_, library)| is_it(library)).map(|(id, _)| *id)
    }

    fn remove(&mut self, id: LibraryId, changes: &mut Changes) {
        self.files.forget(id);
        self.watch.forget(id);
        if let Some(library) = self.libraries.remove(&id) {
            // What this scan has found and lost again was never the caller's.
            match changes.added.iter().position(|added| added.id == id) {
                Some(at) => drop(changes.added.remove(at)),
                None => changes.removed.push(id),
            }
            for pid in library.users {
                if let Some(process) = self.processes.get_mut(&pid) {
                    process.lose(id);
                    changes.processes.push(pid);
                }
            }
        }
    }

    fn drop_unused(&mut self, changes: &mut Changes) {
        let now = Instant::now();
        let mut unused = Vec::new();
        for (id, library) in &mut self.libraries {
            if library.users.is_empty() && !library.installed {
                let since = *library.unused_since.get_or_insert(now);
                // An overlay that is held open cannot be mounted again: a container could not start anew.
                if library.overlay || now.duration_since(since) >= self.linger {
                    unused.push(*id);
                }
            } else {
                library.unused_since = None;
            }
        }
        for id in unused {
            self.remove(id, changes);
        }
    }
}

/// What a file turned out to be.
enum Identified {
    Library(LibraryId),
    /// A TLS library is inside that cannot be probed, and why.
    Unreadable(Label),
    /// None that is known.
    Nothing,
}

/// Reads the bytes as each of the text files that are read here.
#[cfg(feature = "fuzzing")]
pub(crate) fn parse_as_all(bytes: &[u8]) {
    let _ = Maps::read_from(bytes).map(|maps| maps.executable.len());
    mounts::parse_as_all(bytes);
    known::version(bytes);
}

/// The path of a process's program, as its map has it.
fn program(root: &Path, pid: u32) -> Option<Vec<u8>> {
    let path = std::fs::read_link(files::process(root, pid).join("exe")).ok()?;
    let path = path.into_os_string().into_encoded_bytes();
    Some(path.strip_suffix(b" (deleted)").map(<[u8]>::to_vec).unwrap_or(path))
}

/// A path as it is seen from within a root directory; unchanged where it leads out of it.
fn inside<'a>(path: &'a [u8], root: &[u8]) -> &'a [u8] {
    let root = root.strip_suffix(b"/").unwrap_or(root);
    path.strip_prefix(root).filter(|rest| rest.first() == Some(&b'/')).unwrap_or(path)
}
