//! TLS libraries of real processes. Opening what another process has mapped takes privileges.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use hbpf_core::snapshot::TlsVisibility;
use hbpf_host::discover::{Changes, Libraries, Library, Symbol};

/// A process that says a line when it is ready for the next step, and ends with its standard input.
struct Subject {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Subject {
    fn start(program: &str, arguments: &[&str]) -> Option<Self> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().inspect_err(|error| eprintln!("skipped: {program}: {error}")).ok()?;
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take()?));
        let mut subject = Self { child, input, output };
        subject.wait();
        Some(subject)
    }

    fn python(script: &str) -> Option<Self> {
        Self::start("python3", &["-c", script])
    }

    fn wait(&mut self) {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
    }

    fn step(&mut self) {
        self.input.as_mut().unwrap().write_all(b"go\n").unwrap();
        self.wait();
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn end(mut self) {
        drop(self.input.take());
        self.child.wait().unwrap();
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether `map_files` can be used; without privileges it cannot.
fn privileged() -> bool {
    let mut entries = fs::read_dir("/proc/self/map_files").into_iter().flatten();
    let works = entries.next().is_some_and(|entry| fs::metadata(entry.unwrap().path()).is_ok());
    if !works {
        assert!(std::env::var_os("HBPF_REQUIRE_BPF").is_none_or(|value| value != "1"), "map_files cannot be opened");
        eprintln!("skipped: opening files in /proc/PID/map_files takes CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE");
    }
    works
}

fn libraries() -> Libraries {
    let mut libraries = Libraries::new(PathBuf::from("/proc"));
    libraries.set_linger(Duration::ZERO);
    libraries
}

/// One round through all processes.
fn scan_all(libraries: &mut Libraries) -> Changes {
    let mut all = libraries.scan();
    while libraries.is_midway() {
        let changes = libraries.scan();
        all.added.extend(changes.added);
        all.removed.extend(changes.removed);
    }
    all
}

/// The only library that was added.
fn only(changes: Changes) -> Library {
    assert_eq!(changes.added.len(), 1, "{changes:?}");
    assert!(changes.removed.is_empty());
    changes.added.into_iter().next().unwrap()
}

fn run(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

/// What binutils says: functions and their file offsets.
fn expected(path: &str) -> Option<BTreeSet<(Symbol, u64)>> {
    let hexadecimal = |digits: &str| u64::from_str_radix(digits.trim_start_matches("0x"), 16).unwrap();
    let segments: Vec<[u64; 4]> = run("readelf", &["-lW", path])?
        .lines()
        .filter_map(|line| line.trim().strip_prefix("LOAD"))
        .map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            [hexadecimal(fields[0]), hexadecimal(fields[1]), hexadecimal(fields[3]), u64::from(line.contains(" E "))]
        })
        .collect();
    let place = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let name = fields.get(2)?.split('@').next()?;
        let symbol = Symbol::ALL.into_iter().find(|symbol| symbol.name() == name)?;
        let address = hexadecimal(fields[0]);
        let [offset, start, ..] =
            segments.iter().find(|[_, start, size, _]| (*start..start + size).contains(&address))?;
        Some((symbol, address - start + offset))
    };
    Some(run("nm", &["-D", "--defined-only", path])?.lines().filter_map(place).collect())
}

fn assert_as_binutils_says(library: &Library) {
    let path = library.path.as_str();
    let Some(expected) = expected(path) else {
        eprintln!("not compared: no binutils");
        return;
    };
    assert!(expected.len() >= 6, "{path}: {expected:?}");
    assert_eq!(library.symbols.iter().copied().collect::<BTreeSet<_>>(), expected, "{path}");
}

#[test]
fn python_with_ssl_uses_a_shared_library() {
    let Some(subject) = privileged()
        .then(|| Subject::python("import ssl, sys; print('ready', flush=True); sys.stdin.readline()"))
        .flatten()
    else {
        return;
    };
    let mut libraries = libraries();
    let library = only(libraries.scan_pid(subject.pid()));
    assert!(library.path.as_str().contains("libssl"), "{}", library.path);
    assert!(library.version.is_some());
    let file = library.file.metadata().unwrap();
    let named = fs::metadata(library.path.as_str()).unwrap();
    assert_eq!((file.dev(), file.ino()), (named.dev(), named.ino()));
    assert_as_binutils_says(&library);
    assert_eq!(libraries.users(&library.id).collect::<Vec<_>>(), [subject.pid()]);
    let (visibility, reason, path) = libraries.visibility(subject.pid());
    assert_eq!((visibility, reason, path), (TlsVisibility::Attached, None, Some(library.path)));
}

#[test]
fn node_is_its_own_library() {
    let script = "console.log('ready'); process.stdin.resume()";
    let Some(subject) = privileged().then(|| Subject::start("node", &["-e", script])).flatten() else {
        return;
    };
    let library = only(libraries().scan_pid(subject.pid()));
    assert_as_binutils_says(&library);
}

#[test]
fn a_library_loaded_late_is_found_and_one_gone_is_removed() {
    let Some(path) = privileged().then(libssl).flatten() else { return };
    let script = format!(
        "import ctypes, os, sys\nprint('ready', flush=True); sys.stdin.readline()\nctypes.CDLL({path:?}); print('ready', flush=True); sys.stdin.readline()\n\
         os.execv('/bin/sh', ['sh', '-c', 'echo ready; read x'])"
    );
    let Some(mut subject) = Subject::python(&script) else { return };
    let mut libraries = libraries();
    assert!(libraries.scan_pid(subject.pid()).added.is_empty());
    assert_eq!(libraries.visibility(subject.pid()).0, TlsVisibility::None);

    subject.step();
    let library = only_of(&path, scan_all(&mut libraries));
    assert!(libraries.users(&library.id).any(|user| user == subject.pid()));

    subject.step();
    scan_all(&mut libraries);
    assert!(libraries.users(&library.id).all(|user| user != subject.pid()), "it runs another program now");
    assert_eq!(libraries.visibility(subject.pid()).0, TlsVisibility::None);
}

/// The library with this name, among all that a whole scan has found.
fn only_of(path: &Path, changes: Changes) -> Library {
    let file = fs::metadata(path).unwrap();
    let is_it = |library: &Library| {
        let metadata = library.file.metadata().unwrap();
        (metadata.dev(), metadata.ino()) == (file.dev(), file.ino())
    };
    let mut found = changes.added.into_iter().filter(is_it);
    let library = found.next().expect("found");
    assert!(found.next().is_none(), "found once");
    library
}

fn libssl() -> Option<PathBuf> {
    let directories = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib", "/lib64"];
    let found = directories.iter().map(|directory| Path::new(directory).join("libssl.so.3")).find(|path| path.exists());
    if found.is_none() {
        eprintln!("skipped: no libssl.so.3");
    }
    found
}

#[test]
fn a_deleted_library_opens_and_is_removed_after_its_last_user() {
    let Some(original) = privileged().then(libssl).flatten() else { return };
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("libssl-0a1b2c3d.so.3");
    fs::copy(original, &copy).unwrap();
    let script = format!("import ctypes, sys; ctypes.CDLL({copy:?}); print('ready', flush=True); sys.stdin.readline()");
    let (Some(first), Some(second)) = (Subject::python(&script), Subject::python(&script)) else { return };
    let wanted = fs::metadata(&copy).unwrap();
    fs::remove_file(&copy).unwrap();

    let mut libraries = libraries();
    let library = only(libraries.scan_pid(first.pid()));
    assert_eq!(library.path.as_str(), copy.to_str().unwrap());
    let metadata = library.file.metadata().unwrap();
    assert_eq!((metadata.dev(), metadata.ino(), metadata.nlink()), (wanted.dev(), wanted.ino(), 0));
    assert!(libraries.scan_pid(second.pid()).added.is_empty(), "one inode is reported once");
    assert_eq!(libraries.users(&library.id).collect::<BTreeSet<_>>(), [first.pid(), second.pid()].into());

    libraries.forget(first.pid());
    first.end();
    assert!(libraries.scan_pid(second.pid()).removed.is_empty());
    let pid = second.pid();
    second.end();
    assert_eq!(libraries.scan_pid(pid).removed, [library.id]);
    assert_eq!(libraries.users(&library.id).count(), 0);
}

#[test]
fn a_library_lingers_after_its_last_user() {
    let Some(subject) = privileged()
        .then(|| Subject::python("import ssl, sys; print('ready', flush=True); sys.stdin.readline()"))
        .flatten()
    else {
        return;
    };
    let mut libraries = Libraries::new(PathBuf::from("/proc"));
    let library = only(libraries.scan_pid(subject.pid()));
    let pid = subject.pid();
    subject.end();
    assert!(libraries.scan_pid(pid).removed.is_empty(), "short commands in a loop find it still probed");
    libraries.set_linger(Duration::ZERO);
    assert_eq!(libraries.scan_pid(pid).removed, [library.id]);
}

#[test]
fn a_library_written_over_is_another() {
    let Some(original) = privileged().then(libssl).flatten() else { return };
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("libssl.so.3");
    fs::copy(original, &copy).unwrap();
    let script = format!("import ctypes, sys; ctypes.CDLL({copy:?}); print('ready', flush=True); sys.stdin.readline()");
    let Some(subject) = Subject::python(&script) else { return };
    let mut libraries = libraries();
    let library = only(libraries.scan_pid(subject.pid()));
    // A byte more at its end: same inode, other contents.
    fs::OpenOptions::new().append(true).open(&copy).unwrap().write_all(b"\0").unwrap();
    let changes = libraries.scan_pid(subject.pid());
    assert_eq!(changes.removed, [library.id]);
    assert_eq!(changes.added.len(), 1);
    assert_ne!(changes.added[0].id, library.id);
    assert_eq!(libraries.users(&changes.added[0].id).collect::<Vec<_>>(), [subject.pid()]);
}

#[test]
fn what_cannot_be_read_is_blind_and_says_why() {
    if !privileged() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let fake = directory.path().join("libssl.so.3");
    fs::write(&fake, vec![0u8; 8192]).unwrap();
    let script = format!(
        "import mmap, sys\nf = open({fake:?}, 'r+b')\nm = mmap.mmap(f.fileno(), 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)\n\
         print('ready', flush=True); sys.stdin.readline()"
    );
    let Some(subject) = Subject::python(&script) else { return };
    let mut libraries = libraries();
    assert!(libraries.scan_pid(subject.pid()).added.is_empty());
    let (visibility, reason, library) = libraries.visibility(subject.pid());
    assert_eq!((visibility, library), (TlsVisibility::Blind, None));
    let reason = reason.unwrap();
    assert!(reason.starts_with(fake.to_str().unwrap()) && reason.contains("ELF"), "{reason}");
}

/// What scanning costs with two thousand idle processes, printed; of no use but in a release build on a quiet machine.
#[test]
fn two_thousand_idle_processes_are_looked_at_once() {
    const PROCESSES: usize = 2000;
    if std::env::var_os("HBPF_FULL").is_none_or(|value| value != "1") || !privileged() {
        return eprintln!("skipped: HBPF_FULL is not 1");
    }
    let sleeper = || Sleeper(Command::new("sleep").arg("600").spawn().expect("sleep is installed"));
    let sleepers: Vec<Sleeper> = (0..PROCESSES).map(|_| sleeper()).collect();
    let mut libraries = libraries();
    let mut round = |what: &str| {
        let mut times = vec![cpu_time_of(|| drop(libraries.scan()))];
        while libraries.is_midway() {
            times.push(cpu_time_of(|| drop(libraries.scan())));
        }
        let (sum, longest) = (times.iter().sum::<Duration>(), times.iter().max());
        println!("{what}: {} scans, {sum:?} of CPU time in all, {longest:?} the longest", times.len());
    };
    round("first round");
    (0..3).for_each(|_| round("later round"));
    drop(sleepers);
    round("round without them");
}

fn cpu_time_of(work: impl FnOnce()) -> Duration {
    use nix::time::{ClockId, clock_gettime};
    let now = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap();
    let before = now();
    work();
    now() - before
}

struct Sleeper(Child);

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
