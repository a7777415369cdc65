//! This machine as a source of snapshots.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use hbpf_host::collector::{Collector, Options, Update};
use hbpf_host::privsep::{self, HelperClient, SplitOptions};
use hbpf_host::protocol::Group;

use crate::cli::Sources;
use crate::feed::Control;

/// The privileged helper, split off, and this process without privileges.
pub(crate) struct Session {
    helper: HelperClient,
}

impl Session {
    /// Splits the process. Must come before any thread; from here on no file can be opened.
    pub(crate) fn begin(sources: &Sources) -> Result<Self> {
        // The library is opened by a process that may be in another directory's place and cannot ask for another file.
        let library = sources
            .nvml_library
            .as_deref()
            .map(|path| library(path).with_context(|| format!("--nvml-library {}", path.display())));
        let options = SplitOptions {
            nvml_library: library.transpose()?,
            engines: !sources.no_engines,
            ..SplitOptions::default()
        };
        let helper = privsep::split(&options).context("cannot start")?;
        privsep::confine().context("cannot start")?;
        Ok(Self { helper })
    }

    /// Starts the collection; `deliver` is called on a thread of its own. It ends when the control is dropped.
    pub(crate) fn start(
        self,
        options: Options,
        deliver: impl FnMut(Update) + Send + 'static,
    ) -> Result<Box<dyn Control>> {
        let collector = Collector::start(self.helper, options, deliver).context("cannot start the collection")?;
        Ok(Box::new(collector))
    }
}

/// Where a library really is, if it is one: that it cannot be loaded would be told as what is wrong with the machine.
fn library(path: &Path) -> Result<PathBuf> {
    let path = path.canonicalize().context("cannot be opened")?;
    let mut magic = [0; 4];
    let is_library = path.is_file()
        && File::open(&path).and_then(|mut file| file.read_exact(&mut magic)).is_ok()
        && magic == *b"\x7fELF";
    ensure!(is_library, "is no library; without the option hbpf finds the system's libnvidia-ml.so.1 by itself");
    Ok(path)
}

impl Control for Collector {
    fn set_group(&self, group: Group, on: bool) {
        Self::set_group(self, group, on);
    }

    fn take_now(&self) {
        Self::take_now(self);
    }
}
