//! hbpf's probes with programs that do nothing: the price of uprobes and hooks, whatever is done in them.

use std::os::fd::AsRawFd;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use aya::programs::uprobe::UProbeScope;
use aya::programs::{CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, UProbe};
use aya::{Ebpf, EbpfLoader};
use hbpf_host::discover::{Libraries, Library, Symbol, system_directories};
use procfs::process::Process;

/// Scans until the libraries of all processes have been found: each looks at a bounded number of them.
const SCANS: usize = 8;

/// Empty programs where hbpf would have its own. They are gone when this is dropped.
pub(crate) struct Empty {
    _ebpf: Ebpf,
    /// The probes belong to these files.
    _libraries: Vec<Library>,
}

impl Empty {
    /// At the packets of all sockets, in and out.
    pub(crate) fn at_packets() -> Result<Self> {
        let mut ebpf = load_object()?;
        let mounts = Process::myself()?.mountinfo()?;
        let root = mounts.into_iter().find(|mount| mount.fs_type == "cgroup2" && mount.root == "/");
        let root = std::fs::File::open(root.context("cgroup v2 is not mounted")?.mount_point)?;
        let program = ebpf.program_mut("empty_packet").context("the object has no program empty_packet")?;
        let program: &mut CgroupSkb = program.try_into()?;
        program.load()?;
        for hook in [CgroupSkbAttachType::Egress, CgroupSkbAttachType::Ingress] {
            program.attach(&root, hook, CgroupAttachMode::Single)?;
        }
        Ok(Self { _ebpf: ebpf, _libraries: Vec::new() })
    }

    /// In every TLS library that hbpf would probe.
    pub(crate) fn in_libraries() -> Result<Self> {
        let mut ebpf = load_object()?;
        for name in ["empty_entry", "empty_return"] {
            program(&mut ebpf, name)?.load()?;
        }
        let mut found = Libraries::new(PathBuf::from("/proc"));
        let mut libraries = found.scan_installed(&system_directories()).added;
        for _ in 0..SCANS {
            libraries.extend(found.scan().added);
        }
        ensure!(!libraries.is_empty(), "there is no TLS library that can be probed");
        for library in &libraries {
            // The path may lead to another file by now; the descriptor does not.
            let path = format!("/proc/self/fd/{}", library.file.as_raw_fd());
            for (symbol, offset) in &library.symbols {
                for name in programs_for(*symbol) {
                    program(&mut ebpf, name)?.attach(*offset, &path, UProbeScope::AllProcesses)?;
                }
            }
        }
        Ok(Self { _ebpf: ebpf, _libraries: libraries })
    }
}

/// Which of the two stands at a function, in the places where hbpf has programs of its own.
fn programs_for(symbol: Symbol) -> &'static [&'static str] {
    match symbol {
        Symbol::SslFree => &["empty_entry"],
        Symbol::SslNew => &["empty_return"],
        _ => &["empty_return", "empty_entry"],
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut UProbe> {
    let program = ebpf.program_mut(name).with_context(|| format!("the object has no program {name}"))?;
    Ok(program.try_into()?)
}

/// The eBPF object that hbpf carries.
pub(crate) fn load_object() -> Result<Ebpf> {
    let path = crate::root().join(format!("hbpf-ebpf/dist/hbpf.{}.o", std::env::consts::ARCH));
    let Ok(bytes) = std::fs::read(&path) else { bail!("cannot read {}", path.display()) };
    Ok(EbpfLoader::new().allow_unsupported_maps().load(&bytes)?)
}
