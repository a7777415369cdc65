//! TLS libraries in the places where containers and package managers put them: overlays, and names that lead elsewhere.
//!
//! Each test's mounts are in a mount namespace of its thread, so nothing of them outlives it.

#[path = "support/place.rs"]
mod place;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use hbpf_core::snapshot::TlsVisibility;
use hbpf_host::discover::{Changes, Libraries, Library, LibraryId, system_directories};
use nix::mount::{MsFlags, mount};
use place::Place;

/// Says why a test does not run, unless it has to.
fn skip<T>(reason: &str) -> Option<T> {
    assert!(std::env::var_os("HBPF_REQUIRE_BPF").is_none_or(|value| value != "1"), "{reason}");
    eprintln!("skipped: {reason}");
    None
}

/// A place to mount in; `None` where the test cannot run.
fn place() -> Option<Place> {
    nix::unistd::geteuid().is_root().then(Place::new).or_else(|| skip("mounting needs root"))
}

fn libssl() -> Option<PathBuf> {
    let found =
        system_directories().into_iter().map(|directory| directory.join("libssl.so.3")).find(|path| path.exists());
    found.or_else(|| skip("no libssl.so.3 is installed here"))
}

/// Directories, made at once.
fn directories<const N: usize>(root: &Path, names: [&str; N]) -> [PathBuf; N] {
    names.map(|name| {
        let path = root.join(name);
        fs::create_dir_all(&path).expect("a directory in a temporary one");
        path
    })
}

/// Mounts an overlay with an upper layer of its own.
fn overlay(root: &Path, name: &str, lower: &str) -> PathBuf {
    let [point, upper, work] = directories(root, [name, &format!("{name}.upper"), &format!("{name}.work")]);
    let options = format!("lowerdir={lower},upperdir={},workdir={}", upper.display(), work.display());
    mount(Some("overlay"), &point, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .expect("an overlay mounts");
    point
}

/// A process that has this library loaded, until it is dropped.
struct User {
    child: Child,
    _input: Option<ChildStdin>,
}

impl User {
    fn of(library: &Path) -> Self {
        Self::start(Command::new("python3"), library)
    }

    /// One that a shell becomes after this script.
    fn after(mut shell: Command, script: &str, library: &Path) -> Self {
        shell.args(["sh", "-e", "-c", &format!("{script}\nexec python3 \"$@\""), "sh"]);
        Self::start(shell, library)
    }

    fn start(mut python: Command, library: &Path) -> Self {
        let script =
            format!("import ctypes, sys; ctypes.CDLL({library:?}); print('ready', flush=True); sys.stdin.read()");
        python.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = python.spawn().expect("python3 is installed");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut line).expect("it speaks");
        assert_eq!(line, "ready\n");
        let input = child.stdin.take();
        Self { child, _input: input }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn libraries() -> Libraries {
    let mut libraries = Libraries::new(PathBuf::from("/proc"));
    libraries.set_linger(Duration::ZERO);
    libraries
}

fn users(libraries: &Libraries, id: LibraryId) -> BTreeSet<u32> {
    libraries.users(&id).collect()
}

fn only(changes: Changes) -> Library {
    assert_eq!(changes.added.len(), 1, "{changes:?}");
    assert!(changes.removed.is_empty(), "{changes:?}");
    changes.added.into_iter().next().expect("there is one")
}

fn file_of(library: &Library) -> (u64, u64) {
    let metadata = library.file.metadata().expect("it is open");
    (metadata.dev(), metadata.ino())
}

fn numbers(path: &Path) -> (u64, u64) {
    let metadata = fs::metadata(path).expect("it is there");
    (metadata.dev(), metadata.ino())
}

#[test]
fn one_image_in_two_containers_is_one_library() {
    let (Some(place), Some(original)) = (place(), libssl()) else { return };
    let root = place.path();
    let [image, newer] = directories(root, ["image", "a:b, c\\d"]);
    let below = image.join("libssl.so.3");
    fs::copy(original, &below).unwrap();
    // In a layer with a name that has to be written in odd ways, over it.
    let lower = format!("{}/a\\:b\\, c\\\\d:{}", root.display(), image.display());
    assert!(newer.exists());
    let containers = ["one", "two", "three"].map(|name| overlay(root, name, &lower).join("libssl.so.3"));
    assert_ne!(numbers(&containers[0]), numbers(&containers[1]), "they look like different files");

    let mut libraries = libraries();
    let processes = [User::of(&containers[0]), User::of(&containers[1]), User::of(&below)];
    let library = only(libraries.scan_pid(processes[0].pid()));
    assert_eq!(file_of(&library), numbers(&below), "opened where it truly lies");
    for process in &processes[1..] {
        let changes = libraries.scan_pid(process.pid());
        assert!(changes.added.is_empty(), "it is the same file");
        assert_eq!(changes.processes, [process.pid()], "and now it is known of this process too");
        assert!(libraries.scan_pid(process.pid()).processes.is_empty(), "once is enough");
    }
    let pids = processes.iter().map(User::pid).collect();
    assert_eq!(users(&libraries, library.id), pids);

    // The third container writes to it, if only to its permissions: now it has a copy with the same numbers and times.
    let before = fs::metadata(&containers[2]).unwrap();
    fs::set_permissions(&containers[2], std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let after = fs::metadata(&containers[2]).unwrap();
    assert_eq!((before.ino(), before.mtime_nsec()), (after.ino(), after.mtime_nsec()));
    let third = User::of(&containers[2]);
    let copy = only(libraries.scan_pid(third.pid()));
    assert_eq!(file_of(&copy), numbers(&root.join("three.upper/libssl.so.3")));
    assert_eq!(users(&libraries, copy.id), [third.pid()].into());
    assert_eq!(users(&libraries, library.id), pids);
}

#[test]
fn a_process_keeps_the_library_that_it_has_mapped_when_its_container_writes_to_it() {
    let (Some(place), Some(original)) = (place(), libssl()) else { return };
    let [image] = directories(place.path(), ["image"]);
    fs::copy(original, image.join("libssl.so.3")).unwrap();
    let inside = overlay(place.path(), "container", image.to_str().unwrap()).join("libssl.so.3");
    let old = User::of(&inside);
    fs::set_permissions(&inside, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let new = User::of(&inside);

    let mut libraries = libraries();
    let library = only(libraries.scan_pid(old.pid()));
    assert_eq!(file_of(&library), numbers(&image.join("libssl.so.3")), "what it has mapped is not what is there now");
    let copy = only(libraries.scan_pid(new.pid()));
    assert_ne!(copy.id, library.id);
    for _ in 0..2 {
        assert!(libraries.scan_pid(old.pid()).added.is_empty());
        assert_eq!(
            (users(&libraries, library.id), users(&libraries, copy.id)),
            ([old.pid()].into(), [new.pid()].into())
        );
    }
}

#[test]
fn containers_whose_layers_cannot_be_found_share_a_library_all_the_same() {
    let (Some(place), Some(original)) = (place(), libssl()) else { return };
    let root = place.path();
    let [image] = directories(root, ["image"]);
    fs::copy(original, image.join("libssl.so.3")).unwrap();
    let containers =
        ["one", "two", "three"].map(|name| overlay(root, name, image.to_str().unwrap()).join("libssl.so.3"));
    // The layers have other names since, as if these had been names in another mount namespace.
    fs::rename(&image, root.join("elsewhere")).unwrap();
    let processes = [User::of(&containers[0]), User::of(&containers[1])];
    let mut libraries = Libraries::new(PathBuf::from("/proc"));
    let library = only(libraries.scan_pid(processes[0].pid()));
    assert_eq!(file_of(&library), numbers(&containers[0]));
    assert!(libraries.scan_pid(processes[1].pid()).added.is_empty(), "it is the same file");
    assert_eq!(users(&libraries, library.id), processes.iter().map(User::pid).collect());

    fs::rename(root.join("three.upper"), root.join("three.elsewhere")).unwrap();
    fs::set_permissions(&containers[2], std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let third = User::of(&containers[2]);
    let copy = only(libraries.scan_pid(third.pid()));
    assert_eq!(users(&libraries, copy.id), [third.pid()].into());

    let pid = third.pid();
    drop(third);
    assert_eq!(libraries.scan_pid(pid).removed, [copy.id], "a container that has ended is not kept mounted");
}

#[test]
fn a_hundred_upgrades_leave_one_library() {
    let (Some(place), Some(original)) = (place(), libssl()) else { return };
    let [lib] = directories(place.path(), ["lib"]);
    let (path, next) = (lib.join("libssl.so.3"), lib.join("libssl.so.3.dpkg-new"));
    fs::copy(&original, &path).unwrap();
    // No process: only what is installed is looked at.
    let mut libraries = Libraries::new(place.path().join("proc"));
    libraries.set_linger(Duration::ZERO);
    let mut current = only(libraries.scan_installed(std::slice::from_ref(&lib))).id;
    for upgrade in 0..100 {
        fs::copy(&original, &next).unwrap();
        fs::rename(&next, &path).unwrap();
        let changes = libraries.scan();
        assert!(changes.removed.contains(&current), "upgrade {upgrade}: {changes:?}");
        current = only(Changes { removed: Vec::new(), ..changes }).id;
    }
}

#[test]
fn a_library_that_is_upgraded_or_deleted_stays_known_to_its_users() {
    let (Some(place), Some(original)) = (place(), libssl()) else { return };
    let [lib] = directories(place.path(), ["lib"]);
    let (path, next) = (lib.join("libssl.so.3"), lib.join("next"));
    fs::copy(&original, &path).unwrap();
    let mut libraries = libraries();
    let first = only(libraries.scan_installed(std::slice::from_ref(&lib)));
    let old = User::of(&path);
    assert!(libraries.scan_pid(old.pid()).added.is_empty());

    fs::copy(&original, &next).unwrap();
    fs::rename(&next, &path).unwrap();
    let second = only(libraries.take_news());
    assert_eq!(file_of(&second), numbers(&path));
    let new = User::of(&path);
    assert!(libraries.scan_pid(new.pid()).added.is_empty());
    let changes = libraries.scan_pid(old.pid());
    assert!(changes.added.is_empty() && changes.removed.is_empty(), "{changes:?}");
    fs::remove_file(&path).unwrap();
    let changes = libraries.scan_pid(old.pid());
    assert!(changes.added.is_empty() && changes.removed.is_empty(), "{changes:?}");
    for (process, library) in [(&old, &first), (&new, &second)] {
        assert_eq!(users(&libraries, library.id), [process.pid()].into());
        assert_eq!(libraries.visibility(process.pid()).0, TlsVisibility::Attached);
    }
    for (process, library) in [(old, first), (new, second)] {
        let pid = process.pid();
        drop(process);
        assert_eq!(libraries.scan_pid(pid).removed, [library.id], "nobody has it any more");
    }
}

#[test]
fn a_library_written_over_in_place_is_given_up_at_once_and_found_again() {
    let (Some(place), Some(original)) = (place(), libssl()) else { return };
    let [lib] = directories(place.path(), ["lib"]);
    let path = lib.join("libssl.so.3");
    fs::copy(&original, &path).unwrap();
    let mut libraries = Libraries::new(place.path().join("proc"));
    libraries.set_linger(Duration::ZERO);
    let before = only(libraries.scan_installed(std::slice::from_ref(&lib)));
    {
        use std::io::Write;
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"\0").unwrap();
        let changes = libraries.take_news();
        assert_eq!((changes.removed, changes.added.len()), (vec![before.id], 0), "it may not be whole yet");
    }
    let after = only(libraries.take_news());
    assert_eq!(file_of(&after), file_of(&before));
    assert!(libraries.take_news().added.is_empty());
}

/// A command in a user and a mount namespace of its own.
fn as_other_user() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount"]);
    command
}

#[test]
fn an_overlay_that_a_user_has_mounted_is_seen_through_only_where_its_layers_are_found() {
    let (Some(place), Some(original)) = (place(), libssl()) else { return };
    let [image, empty, hidden, point] = directories(place.path(), ["image", "empty", "hidden", "point"]);
    let below = image.join("libssl.so.3");
    fs::copy(&original, &below).unwrap();
    let library = point.join("libssl.so.3");
    let mount = |lower: &Path| {
        let layers = format!("lowerdir={}:{}", empty.display(), lower.display());
        format!("mount -t overlay overlay -o {layers} {}", point.display())
    };
    let seen = User::after(as_other_user(), &mount(&image), &library);
    let mut libraries = libraries();
    let found = only(libraries.scan_pid(seen.pid()));
    assert_eq!(file_of(&found), numbers(&below), "proven by what the process has in memory");
    assert_eq!(libraries.visibility(seen.pid()).0, TlsVisibility::Attached);

    // Here the layer is a file system that only the user sees, which might as well be FUSE.
    let hide = format!(
        "mount -t tmpfs tmpfs {0}\ncp {1} {0}/libssl.so.3\n{2}",
        hidden.display(),
        original.display(),
        mount(&hidden)
    );
    let unseen = User::after(as_other_user(), &hide, &library);
    let changes = libraries.scan_pid(unseen.pid());
    assert!(changes.added.is_empty(), "{changes:?}");
    let (visibility, reason, _) = libraries.visibility(unseen.pid());
    assert_eq!(visibility, TlsVisibility::Blind);
    assert!(reason.as_deref().is_some_and(|reason| reason.contains("an overlay that its user may")), "{reason:?}");
}

#[test]
fn a_proc_that_hides_processes_hides_none_from_root() {
    let (Some(place), Some(original)) = (place(), libssl()) else { return };
    let [proc, lib] = directories(place.path(), ["proc", "lib"]);
    let hidden = Some("hidepid=2");
    mount(Some("proc"), &proc, Some("proc"), MsFlags::empty(), hidden).expect("proc mounts");
    let path = lib.join("libssl.so.3");
    fs::copy(original, &path).unwrap();
    let process = User::of(&path);
    let mut libraries = Libraries::new(proc);
    let library = only(libraries.scan_pid(process.pid()));
    assert_eq!(file_of(&library), numbers(&path));
}
