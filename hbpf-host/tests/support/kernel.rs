//! The committed object, loaded and attached without the helper, and its records.

use std::{collections::BTreeMap, env, fs::File, os::fd::AsFd, path::PathBuf, process::Command};

use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, Map, MapData, PerCpuArray, RingBuf},
    programs::{
        CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSock, CgroupSockAddr, RawTracePoint, SockOps, UProbe,
        uprobe::UProbeScope,
    },
};
use hbpf_ebpf::{FlowKey, RecordHeader, Verdict, kind, target};
use hbpf_host::{
    discover::{Libraries, Library, Symbol},
    ring::Bell,
};

use crate::support;

/// A record of the ring.
pub(crate) struct Record {
    pub(crate) header: RecordHeader,
    pub(crate) payload: Vec<u8>,
}

impl Record {
    pub(crate) fn is_close(&self) -> bool {
        self.header.kind == kind::CLOSE
    }
}

/// Records by the flow that they belong to, each flow's in their order.
pub(crate) fn handles(records: &[Record]) -> Vec<Vec<&Record>> {
    let mut flows: BTreeMap<u64, Vec<&Record>> = BTreeMap::new();
    for record in records {
        flows.entry(record.header.handle).or_default().push(record);
    }
    flows.into_values().collect()
}

/// A Python whose ssl module uses a shared libssl, and that library.
pub(crate) fn python_with_shared_openssl() -> Option<(&'static str, PathBuf)> {
    let program = "import ssl; print(next(l.split()[-1] for l in open('/proc/self/maps') if '/libssl' in l))";
    let Ok(output) = Command::new("python3").args(["-c", program]).output() else {
        support::skip("python3 is not installed")?;
        return None;
    };
    let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if path.is_empty() {
        support::skip("python3 does not use a shared libssl")?;
    }
    Some(("python3", path.into()))
}

/// Has connections accepted only when their first bytes have arrived, as Apache and nginx do.
pub(crate) fn defer_accept(listener: &std::net::TcpListener) {
    use nix::libc;
    use std::os::fd::AsRawFd;
    let seconds: libc::c_int = 5;
    // SAFETY: the option's value is an integer that outlives the call.
    let set = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            size_of_val(&seconds) as libc::socklen_t,
        )
    };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

/// A connection from a port of our choosing.
pub(crate) fn connect_from(from: std::net::SocketAddr, to: std::net::SocketAddr) -> std::net::TcpStream {
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
    };
    use std::os::fd::AsRawFd;
    let family = if from.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    setsockopt(&socket, sockopt::ReuseAddr, &true).expect("a socket option");
    bind(socket.as_raw_fd(), &SockaddrStorage::from(from)).expect("the port is free");
    connect(socket.as_raw_fd(), &SockaddrStorage::from(to)).expect("loopback connects");
    socket.into()
}

/// Has a socket reset its connection when it is closed.
pub(crate) fn reset_at_close(stream: &std::net::TcpStream) {
    use nix::sys::socket::{setsockopt, sockopt};
    let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(stream, sockopt::Linger, &at_once).expect("a socket option");
}

/// The programs, loaded, and their maps.
pub(crate) struct Kernel {
    ebpf: Ebpf,
    events: RingBuf<MapData>,
    verdicts: HashMap<MapData, Bytes<24>, Bytes<8>>,
    targets: HashMap<MapData, u64, u8>,
    counters: PerCpuArray<MapData, u64>,
    limits: Array<MapData, u64>,
}

/// A map's key or value as it lies in memory.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Bytes<const N: usize>([u8; N]);

// SAFETY: bytes without padding (N is a multiple of eight in all uses), for which every pattern is valid.
unsafe impl<const N: usize> Pod for Bytes<N> {}

impl Kernel {
    /// None where the test cannot run.
    pub(crate) fn load() -> Option<Self> {
        if !support::can_load() {
            return None;
        }
        let mut ebpf = support::create_maps(&support::object(env::consts::ARCH));
        let mut take = |name: &str| ebpf.take_map(name).unwrap_or_else(|| panic!("no map {name}"));
        let events = RingBuf::try_from(take("EVENTS")).expect("EVENTS is a ring");
        let verdicts = HashMap::try_from(take("VERDICTS")).expect("VERDICTS is a hash map");
        let targets = HashMap::try_from(take("TARGETS")).expect("TARGETS is a hash map");
        let counters = PerCpuArray::try_from(take("COUNTERS")).expect("COUNTERS is a per-CPU array");
        let limits = Array::try_from(take("LIMITS")).expect("LIMITS is an array");
        Some(Self { ebpf, events, verdicts, targets, counters, limits })
    }

    pub(crate) fn target(&mut self, pattern: &str) {
        self.targets.insert(target::hash(pattern.as_bytes()), 1, 0).expect("TARGETS takes a pattern");
    }

    pub(crate) fn verdict(&mut self, judged: &RecordHeader, action: u32) {
        let key = FlowKey {
            handle: judged.handle,
            generation: judged.generation,
            pid: if judged.source == hbpf_ebpf::source::TLS { judged.pid } else { 0 },
            source: judged.source.into(),
        };
        let verdict = Verdict { message: judged.message, action };
        // SAFETY: both are integers without padding and as long as their bytes.
        let (key, verdict) = unsafe {
            (std::mem::transmute::<FlowKey, Bytes<24>>(key), std::mem::transmute::<Verdict, Bytes<8>>(verdict))
        };
        self.verdicts.insert(key, verdict, 0).expect("VERDICTS takes a verdict");
    }

    /// Sets one of `hbpf_ebpf::limit`.
    pub(crate) fn limit(&mut self, which: u32, value: u64) {
        self.limits.set(which, value, 0).expect("LIMITS takes a number");
    }

    pub(crate) fn counter(&self, which: u32) -> u64 {
        self.counters.get(&which, 0).expect("the counter exists").iter().sum()
    }

    /// What is in the ring.
    pub(crate) fn records(&mut self) -> Vec<Record> {
        let mut records = Vec::new();
        while let Some(item) = self.events.next() {
            let (header, payload) = item.split_at(size_of::<RecordHeader>());
            // SAFETY: the record begins with a header, which is integers throughout.
            let header: RecordHeader = unsafe { std::ptr::read_unaligned(header.as_ptr().cast()) };
            let captured = usize::try_from(header.captured_len).expect("lengths fit");
            records.push(Record { header, payload: payload[..captured].to_vec() });
        }
        records
    }

    /// What wakes the ring's reader when much is in it.
    pub(crate) fn bell(&self) -> Bell {
        let Some(Map::RingBuf(bell)) = self.ebpf.map("BELL") else { panic!("BELL is a ring") };
        Bell::from_fd(bell.fd().as_fd().try_clone_to_owned().expect("a descriptor")).expect("a ring can be mapped")
    }

    /// What is in the ring of the flows that have `port` at one of their ends, with those flows' ends.
    pub(crate) fn records_of_port(&mut self, port: u16) -> Vec<Record> {
        let records = self.records();
        let has_port = |record: &&Record| record.header.local_port == port || record.header.remote_port == port;
        let handles: Vec<u64> = records.iter().filter(has_port).map(|record| record.header.handle).collect();
        records.into_iter().filter(|record| handles.contains(&record.header.handle)).collect()
    }

    pub(crate) fn attach_tcp(&mut self) {
        let cgroup = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
            .iter()
            .find(|place| std::path::Path::new(place).join("cgroup.controllers").exists())
            .expect("cgroup v2 is mounted");
        let cgroup = File::open(cgroup).expect("cgroup v2 can be opened");
        for name in ["sock_create", "sock_release"] {
            let program: &mut CgroupSock = self.program(name);
            program.load().expect("the program loads");
            program.attach(&cgroup, CgroupAttachMode::Single).expect("the program attaches");
        }
        for name in ["connect4", "connect6"] {
            let program: &mut CgroupSockAddr = self.program(name);
            program.load().expect("the program loads");
            program.attach(&cgroup, CgroupAttachMode::Single).expect("the program attaches");
        }
        let program: &mut SockOps = self.program("tcp_accepted");
        program.load().expect("the program loads");
        program.attach(&cgroup, CgroupAttachMode::Single).expect("the program attaches");
        for (name, kind) in [("tcp_egress", CgroupSkbAttachType::Egress), ("tcp_ingress", CgroupSkbAttachType::Ingress)]
        {
            let program: &mut CgroupSkb = self.program(name);
            program.load().expect("the program loads");
            program.attach(&cgroup, kind, CgroupAttachMode::Single).expect("the program attaches");
        }
    }

    pub(crate) fn attach_tls(&mut self, library: &std::path::Path) {
        for (name, symbol) in [
            ("ssl_read", "SSL_read"),
            ("ssl_read_return", "SSL_read"),
            ("ssl_read_ex", "SSL_read_ex"),
            ("ssl_read_ex_return", "SSL_read_ex"),
            ("ssl_write", "SSL_write"),
            ("ssl_write_return", "SSL_write"),
            ("ssl_write_ex", "SSL_write_ex"),
            ("ssl_write_ex_return", "SSL_write_ex"),
            ("ssl_free", "SSL_free"),
            ("ssl_new_return", "SSL_new"),
        ] {
            let program: &mut UProbe = self.program(name);
            // It is when probes are put into a second library.
            if program.fd().is_err() {
                program.load().expect("the program loads");
            }
            program.attach(symbol, library, UProbeScope::AllProcesses).expect("the program attaches");
        }
    }

    /// Attaches as the helper does: at the places that a look at the code has found.
    pub(crate) fn attach_tls_places(&mut self, library: &std::path::Path) {
        let directory = library.parent().expect("a file is in a directory").to_owned();
        let found = Libraries::new("/proc".into()).scan_installed(&[directory]).added;
        let is_it = |found: &&Library| std::path::Path::new(found.path.as_str()) == library;
        let found = found.iter().find(is_it).expect("the library is found");
        for place in &found.places {
            let programs: &[&str] = match place.symbol {
                Symbol::SslRead | Symbol::GnutlsRecv => &["ssl_read_return", "ssl_read"],
                Symbol::SslReadEx if place.internal => &["ssl_read_internal_return", "ssl_read_ex"],
                Symbol::SslReadEx => &["ssl_read_ex_return", "ssl_read_ex"],
                Symbol::SslWrite | Symbol::GnutlsSend | Symbol::GnutlsSend2 => &["ssl_write_return", "ssl_write"],
                Symbol::SslWriteEx => &["ssl_write_ex_return", "ssl_write_ex"],
                Symbol::SslWriteEx2 => &["ssl_write_ex_return", "ssl_write_ex2"],
                Symbol::SslFree | Symbol::GnutlsDeinit => &["ssl_free"],
                Symbol::SslNew => &["ssl_new_return"],
                other => panic!("{} is in no library", other.name()),
            };
            for name in programs {
                let program: &mut UProbe = self.program(name);
                // One of two places may have loaded it.
                let _ = program.load();
                program.attach(place.offset, library, UProbeScope::AllProcesses).expect("the program attaches");
            }
        }
    }

    /// Says which processes end from now on; `None` where the kernel does not tell a process's last thread (before 6.16).
    pub(crate) fn watch_ends(&mut self) -> Option<RingBuf<MapData>> {
        let program: &mut RawTracePoint = self.program("process_end");
        program.load().expect("the program loads");
        if program.attach("sched_process_exit").is_err() {
            support::skip("the kernel does not tell which thread is a process's last")?;
        }
        let ring = self.ebpf.take_map("LIFECYCLE").expect("the map is there");
        Some(RingBuf::try_from(ring).expect("LIFECYCLE is a ring"))
    }

    fn program<'a, T>(&'a mut self, name: &str) -> &'a mut T
    where
        &'a mut T: TryFrom<&'a mut aya::programs::Program>,
        <&'a mut T as TryFrom<&'a mut aya::programs::Program>>::Error: std::fmt::Debug,
    {
        let program = self.ebpf.program_mut(name).unwrap_or_else(|| panic!("no program {name}"));
        program.try_into().expect("the program is of its type")
    }
}
