//! A process that makes the files the user asks for while the view runs, which itself can open none.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::libc;
use nix::unistd::{ForkResult, fork, getcwd};

use super::filter::{Argument, ConfineError, Filter};
use super::{SplitError, credentials, output};
use crate::helper;

/// Largest file that is made.
const MAX_BYTES: u32 = 256 << 20;

/// What every name begins with, and what else may stand in it.
const PREFIX: &str = "hbpf-";
const MAX_NAME: usize = 120;

/// Why there is no file: what the user is to be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is one of that name.
    #[error("{0}")]
    Exists(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// What an answer begins with that is none of success.
const EXISTS: u8 = 1;
const OTHER: u8 = 2;

/// Makes new files in the directory in which hbpf was started, with the user's rights, and nothing else.
pub struct Scribe {
    socket: UnixStream,
    directory: String,
}

impl Scribe {
    /// Forks the process. To be called before [`super::split`] and before any thread starts.
    ///
    /// # Errors
    ///
    /// If the operating system refuses, or there are other threads.
    pub fn start() -> Result<Self, SplitError> {
        super::require_one_thread()?;
        let directory = getcwd().map_or_else(|_| ".".to_owned(), |path| path.display().to_string());
        let (ours, theirs) = UnixStream::pair()?;
        // SAFETY: this is the only thread, so the child's memory is as consistent as ours.
        match unsafe { fork() }.map_err(io::Error::from)? {
            ForkResult::Child => {
                drop(ours);
                helper::detach_from_terminal();
                let theirs = OwnedFd::from(theirs);
                helper::close_others(&[theirs.as_raw_fd()]);
                if credentials::be_the_user().is_ok() && hold().is_ok() {
                    // Nobody asks any more.
                    let _ = serve(&mut UnixStream::from(theirs));
                }
                // SAFETY: this process has one thread and nothing to clean up.
                unsafe { libc::_exit(0) }
            }
            ForkResult::Parent { .. } => Ok(Self { socket: ours, directory }),
        }
    }

    /// Where files are made.
    pub fn directory(&self) -> &str {
        &self.directory
    }

    /// Makes a new file for its owner alone. The name is to begin with `hbpf-` and to have letters, digits, `.`, `-` and `_` only.
    ///
    /// # Errors
    ///
    /// What the user is to be told.
    pub fn write(&mut self, name: &str, content: &[u8]) -> Result<(), Refusal> {
        let gone = |error: io::Error| Refusal::Other(format!("cannot make {name}: {error}"));
        let length = u32::try_from(content.len()).ok().filter(|length| *length <= MAX_BYTES);
        let length = length.ok_or_else(|| Refusal::Other(format!("cannot make {name}: it would be too large")))?;
        let head = u32::try_from(name.len()).unwrap_or(u32::MAX);
        for part in [&head.to_le_bytes()[..], name.as_bytes(), &length.to_le_bytes(), content] {
            self.socket.write_all(part).map_err(gone)?;
        }
        let answer = receive(&mut self.socket, MAX_BYTES).map_err(gone)?;
        let text = |answer: &[u8]| String::from_utf8_lossy(answer).into_owned();
        match &answer[..] {
            [] => Ok(()),
            [EXISTS, rest @ ..] => Err(Refusal::Exists(text(rest))),
            [_, rest @ ..] => Err(Refusal::Other(text(rest))),
        }
    }
}

/// What this process may still do.
fn hold() -> Result<(), ConfineError> {
    let mut filter = Filter::common();
    let new = (libc::O_CREAT | libc::O_EXCL) as u64;
    filter.allow_if(libc::SYS_openat, &[Argument::Masked(2, new, new)]);
    filter.install()
}

/// Makes files until the other side has gone.
fn serve(socket: &mut UnixStream) -> io::Result<()> {
    loop {
        let name = receive(socket, MAX_NAME as u32)?;
        let content = receive(socket, MAX_BYTES)?;
        let answer = match make(&name, &content) {
            Ok(()) => Vec::new(),
            Err(Refusal::Exists(text)) => [&[EXISTS], text.as_bytes()].concat(),
            Err(Refusal::Other(text)) => [&[OTHER], text.as_bytes()].concat(),
        };
        socket.write_all(&(answer.len() as u32).to_le_bytes())?;
        socket.write_all(&answer)?;
    }
}

fn make(name: &[u8], content: &[u8]) -> Result<(), Refusal> {
    let nonsense = || Refusal::Other("that is no name for a file".to_owned());
    let name = std::str::from_utf8(name).ok().filter(|name| is_name(name)).ok_or_else(nonsense)?;
    let mut file: File = output::create(name.as_ref()).map_err(|error| match error {
        output::OutputError::Exists(_) => Refusal::Exists(error.to_string()),
        error => Refusal::Other(error.to_string()),
    })?;
    let half = |error| Refusal::Other(format!("{name} is there, but not all of it: {error}"));
    file.write_all(content).map_err(half)
}

fn is_name(name: &str) -> bool {
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    name.starts_with(PREFIX) && name.len() <= MAX_NAME && name.bytes().all(is_fine)
}

/// A length and so many bytes.
fn receive(socket: &mut UnixStream, most: u32) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    socket.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > most {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = Vec::new();
    socket.take(u64::from(length)).read_to_end(&mut bytes)?;
    if bytes.len() as u32 == length { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_nowhere_else() {
        assert!(is_name("hbpf-20261130T020000Z-processes.csv"));
        for name in ["", "a.csv", "hbpf-a/b", "hbpf-../x", "hbpf-a b", "hbpf-\n", "../hbpf-a"] {
            assert!(!is_name(name), "{name}");
        }
        assert!(!is_name(&format!("hbpf-{}", "x".repeat(MAX_NAME))));
    }

    #[test]
    fn what_is_asked_for_is_answered_and_nonsense_ends_it() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let served = std::thread::spawn(move || serve(&mut theirs));
        let ask = |ours: &mut UnixStream, name: &str| {
            for part in [name.as_bytes(), b"content"] {
                ours.write_all(&(part.len() as u32).to_le_bytes()).unwrap();
                ours.write_all(part).unwrap();
            }
            String::from_utf8(receive(ours, 1000).unwrap()).unwrap()
        };
        assert_eq!(ask(&mut ours, "/etc/passwd"), "\u{2}that is no name for a file");
        ours.write_all(&u32::MAX.to_le_bytes()).unwrap();
        assert_eq!(served.join().unwrap().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
