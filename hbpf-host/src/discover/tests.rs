//! Process trees that the kernel would not write, or only for someone who means harm.

use std::fs;
use std::path::Path;

use super::seen::SCANS_BETWEEN_MAPS;
use super::*;
use crate::process::stat::tests::line;

fn process(root: &Path, pid: u32, maps: &[u8]) {
    let dir = root.join(pid.to_string());
    fs::create_dir_all(dir.join("map_files")).unwrap();
    fs::write(dir.join("stat"), line(pid, "x", 1, 0, 100, 1)).unwrap();
    fs::write(dir.join("maps"), maps).unwrap();
}

fn resize(root: &Path, pid: u32, start: u64, virtual_bytes: u64) {
    fs::write(root.join(pid.to_string()).join("stat"), line(pid, "x", 1, 0, start, virtual_bytes)).unwrap();
}

fn fifo(path: &Path) {
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
}

fn maps_of(names: impl Iterator<Item = String>) -> String {
    let line = |(at, name): (usize, String)| format!("{at}000-{at}fff r-xp 00000000 fd:01 {at} {name}\n");
    names.enumerate().map(|(at, name)| line((at + 1, name))).collect()
}

#[test]
fn fifos_and_junk_in_the_place_of_files_neither_stop_nor_confuse() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for pid in [2, 3] {
        fs::create_dir(root.join(pid.to_string())).unwrap();
    }
    fifo(&root.join("2/stat"));
    fs::write(root.join("3/stat"), line(3, "x", 1, 0, 100, 1)).unwrap();
    fifo(&root.join("3/maps"));
    process(root, 4, &[0xff; 10_000]);
    process(root, 5, maps_of(["/libssl.so.3".to_owned()].into_iter()).as_bytes());
    fifo(&root.join("pipe"));
    std::os::unix::fs::symlink(root.join("pipe"), root.join("5/map_files/1000-1fff")).unwrap();
    fs::write(root.join("6"), "no directory").unwrap();

    let mut libraries = Libraries::new(root.to_owned());
    for _ in 0..3 {
        let changes = libraries.scan();
        assert!(changes.added.is_empty() && changes.removed.is_empty());
    }
    for pid in [2, 3, 4, 6, 7] {
        assert_eq!(libraries.visibility(pid).0, TlsVisibility::None, "{pid}");
    }
    assert_eq!(libraries.visibility(5).1.as_deref(), Some("/libssl.so.3 is no regular file"));
}

#[test]
fn a_process_with_countless_libraries_is_given_up_with_a_word() {
    let dir = tempfile::tempdir().unwrap();
    process(dir.path(), 5, maps_of((0..5000).map(|number| format!("/libssl.so.{number}"))).as_bytes());
    let mut libraries = Libraries::new(dir.path().to_owned());
    assert!(libraries.scan().added.is_empty());
    let (visibility, reason, _) = libraries.visibility(5);
    assert_eq!(visibility, TlsVisibility::Blind);
    assert!(reason.unwrap().starts_with("it has more than"));
}

#[test]
fn other_tls_libraries_make_blind_by_name() {
    let dir = tempfile::tempdir().unwrap();
    process(dir.path(), 5, maps_of(["/usr/lib/libwolfssl.so.35".to_owned()].into_iter()).as_bytes());
    let mut libraries = Libraries::new(dir.path().to_owned());
    libraries.scan();
    let (visibility, reason, library) = libraries.visibility(5);
    assert_eq!((visibility, library), (TlsVisibility::Blind, None));
    assert!(reason.unwrap().contains("wolfSSL"));
}

#[test]
fn maps_are_read_again_only_after_a_change_and_a_while() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let wolfssl = maps_of(["/libwolfssl.so.35".to_owned()].into_iter());
    process(root, 5, b"");
    let mut libraries = Libraries::new(root.to_owned());
    let blind = |libraries: &Libraries| libraries.visibility(5).0 == TlsVisibility::Blind;
    libraries.scan();
    fs::write(root.join("5/maps"), &wolfssl).unwrap();
    libraries.scan();
    assert!(!blind(&libraries), "nothing says that it has changed");
    resize(root, 5, 100, 2);
    for _ in 0..SCANS_BETWEEN_MAPS {
        libraries.scan();
    }
    assert!(blind(&libraries), "it has grown");
    fs::write(root.join("5/maps"), "").unwrap();
    resize(root, 5, 101, 2);
    libraries.scan();
    assert!(!blind(&libraries), "another process has the number now");
    fs::write(root.join("5/maps"), &wolfssl).unwrap();
    libraries.scan_pid(5);
    assert!(blind(&libraries), "asked for by name");
    fs::remove_dir_all(root.join("5")).unwrap();
    libraries.scan();
    assert!(libraries.processes.is_empty());
}

#[test]
fn many_processes_take_several_scans() {
    let dir = tempfile::tempdir().unwrap();
    let count = 2 * MAPS_PER_SCAN as u32 + 1;
    for pid in 1..=count {
        process(dir.path(), pid, b"");
    }
    let mut libraries = Libraries::new(dir.path().to_owned());
    libraries.scan();
    assert!(libraries.processes.len() <= MAPS_PER_SCAN && libraries.is_midway());
    assert!(libraries.processes.contains_key(&count), "the newest first");
    while libraries.processes.len() < count as usize {
        let before = libraries.processes.len();
        libraries.scan();
        assert!(libraries.processes.len() > before, "each scan gets on");
    }
    assert_eq!((libraries.scans, libraries.is_midway()), (1, false), "all in one round");
}

#[test]
fn an_installed_library_waits_for_users_and_what_only_looks_like_one_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let lib = dir.path().join("lib");
    fs::create_dir(&lib).unwrap();
    fs::write(lib.join("libssl.so.junk"), "not an ELF file").unwrap();
    fifo(&lib.join("libssl.so.9"));
    let real =
        system_directories().into_iter().map(|directory| directory.join("libssl.so.3")).find(|path| path.exists());
    let Some(real) = real else { return println!("skipped: no libssl.so.3 is installed here") };
    fs::copy(real, lib.join("libssl.so.3")).unwrap();
    std::os::unix::fs::symlink("libssl.so.3", lib.join("libssl.so")).unwrap();

    let mut libraries = Libraries::new(dir.path().join("proc"));
    libraries.set_linger(Duration::ZERO);
    let directories = [lib, dir.path().join("missing")];
    let changes = libraries.scan_installed(&directories);
    assert_eq!(changes.added.len(), 1);
    assert!(changes.added[0].symbols.iter().any(|(symbol, _)| *symbol == Symbol::SslWrite));
    assert!(libraries.scan().removed.is_empty(), "it has no users and stays");
    assert!(libraries.scan_installed(&directories).added.is_empty());
}

#[test]
fn hbpfs_own_program_is_no_process_that_cannot_be_seen_into() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: others' files can be looked into by root only");
        return;
    }
    let pid = std::process::id();
    // This one has the names of libraries inside, as what it looks for.
    let program = fs::File::open("/proc/self/exe").unwrap();
    let size = program.metadata().unwrap().len();
    assert!(elf::inspect(&program, size).unwrap().unreadable.is_some());
    let mut libraries = Libraries::new("/proc".into());
    libraries.scan_pid(pid);
    assert_eq!(libraries.visibility(pid), (TlsVisibility::None, None, None));
}
