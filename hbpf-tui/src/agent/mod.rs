//! `hbpf agent`: always on, for metrics systems and for people elsewhere.
//!
//! Three processes of its own, besides the collector's helper. The first, this one, has read files and opened sockets as root
//! and looks after the others; it takes signals and nothing else. The collector is what it is in every command. The publisher
//! speaks with the network, has the latest snapshot, and can neither read files nor see traffic: whoever takes it over has what
//! it publishes anyway.

mod access;
mod counters;
mod listener;
mod log;
mod otlp;
mod publisher;
mod settings;

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{CommandFactory, Parser};
use hbpf_core::prices::Prices;
use hbpf_core::snapshot::Snapshot;
use hbpf_host::collector::Options;
use hbpf_host::privsep::{self, SplitOptions};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use sd_notify::NotifyState;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::pipe;
use tokio_rustls::rustls::ServerConfig;
use toml::Value;

use self::access::{Hosts, Token};
use self::listener::{Listener, Scope, Socket};
use self::otlp::Exporter;
use self::publisher::Plan;
pub(crate) use self::settings::Address;
use crate::cli::{AgentArgs, Cli, Command};
use crate::config;
use crate::feed::Update;
use crate::live::Session;
use crate::pem;
use crate::prices;
use crate::wire;

/// How long the others have for their end: what is queued is sent, and probes are taken out.
const END_TIMEOUT: Duration = Duration::from_secs(12);

/// And when they were killed.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the collector waits for a last snapshot.
const LAST_SNAPSHOT: Duration = Duration::from_secs(2);

/// How often the collector looks whether it still collects, in milliseconds.
const WATCH: u16 = 1000;

/// How many intervals without a snapshot, and how much time at least, mean that it does not.
const MISSED_INTERVALS: u32 = 3;
const STOPPED: Duration = Duration::from_secs(20);

/// A publisher that ends sooner than this after its beginning is not begun again at once.
const SHORT_LIFE: Duration = Duration::from_secs(5);

/// Snapshots that wait for the publisher.
const QUEUE: usize = 4;

/// What the collector says to the first process.
const ALIVE: u8 = b'.';

/// Runs until it is told to end.
pub(crate) fn run(config: Option<&Path>) -> Result<ExitCode> {
    let mut agent = Agent::begin(config)?;
    loop {
        match agent.wait()? {
            Event::Stop => {
                _ = sd_notify::notify(&[NotifyState::Stopping]);
                return Ok(if agent.end() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
            }
            Event::Reload => agent.reload(config)?,
            Event::CollectorEnded => {
                agent.end();
                return Ok(ExitCode::FAILURE);
            }
            Event::PublisherEnded => {
                if agent.publisher.began.elapsed() < SHORT_LIFE {
                    thread::sleep(SHORT_LIFE);
                }
                agent.publish_again(false)?;
            }
        }
    }
}

/// What the first process has been told, and has opened.
struct Setup {
    arguments: AgentArgs,
    token: Option<Token>,
    tls: Option<Arc<ServerConfig>>,
    exporter: Exporter,
    prices: Arc<Prices>,
    /// What the file says of providers.
    apis: String,
}

impl Setup {
    /// Reads it all anew.
    fn read(config: Option<&Path>) -> Result<Self> {
        let file = config::read_table(config)?;
        let arguments = arguments(config, file.get("agent"))?;
        let token = arguments.token_file.as_deref().map(Token::read).transpose()?;
        let tls = match (&arguments.tls_cert, &arguments.tls_key) {
            (Some(certificate), Some(key)) => Some(Arc::new(tls(certificate, key)?)),
            _ => None,
        };
        let otlp = otlp::Settings::read(
            &otlp::Options {
                endpoint: arguments.otlp_endpoint.clone(),
                protocol: arguments.otlp_protocol.clone(),
                spans: arguments.otlp_spans,
            },
            |name| std::env::var(name).ok(),
        )?;
        let prices = prices::load(arguments.pricing.prices.as_deref())?;
        let apis = file.get("providers").map(ToString::to_string).unwrap_or_default();
        let setup = Self { token, tls, exporter: Exporter::new(otlp)?, prices, apis, arguments };
        setup.check()?;
        Ok(setup)
    }

    fn check(&self) -> Result<()> {
        for address in &self.arguments.listen {
            let Address::Tcp(address) = address else { continue };
            ensure!(
                self.token.is_some(),
                "--listen {address} needs --token-file: what runs on this host is nobody else's business"
            );
            ensure!(
                self.tls.is_some() || self.arguments.insecure || address.ip().is_loopback(),
                "--listen {address} needs --tls-cert and --tls-key, or --insecure: the token would be read on its way"
            );
        }
        Ok(())
    }

    /// What collecting depends on: if it changes, it begins anew.
    fn collection(&self) -> String {
        let AgentArgs { interval, window, probes, bounds, sources, .. } = &self.arguments;
        format!("{interval:?} {window:?} {probes:?} {bounds:?} {sources:?} {:?} {}", self.prices, self.apis)
    }
}

/// The arguments, as the environment and the file complete them.
fn arguments(config: Option<&Path>, file: Option<&Value>) -> Result<AgentArgs> {
    let written: Vec<OsString> = std::env::args_os().collect();
    let matches = Cli::command().get_matches_from(&written);
    let given = matches.subcommand_matches("agent").context("this is `hbpf agent`")?;
    let mut command = Cli::command();
    command.build();
    let command = command.find_subcommand("agent").context("this is `hbpf agent`")?;
    let file = file.map(|file| file.as_table().context("agent is a table")).transpose();
    let all = file.and_then(|file| settings::complete(&written, command, given, file, |name| std::env::var_os(name)));
    let all = all.with_context(|| config::name(config).display().to_string())?;
    match Cli::try_parse_from(all).and_then(Cli::checked) {
        Ok(Cli { command: Some(Command::Agent(arguments)), .. }) => Ok(*arguments),
        Ok(_) => bail!("this is `hbpf agent`"),
        Err(error) => bail!("{}", error.to_string().lines().next().unwrap_or_default().trim_start_matches("error: ")),
    }
}

fn tls(certificate: &Path, key: &Path) -> Result<ServerConfig> {
    let (chain, key_of) = (pem::certificates(certificate)?, pem::key(key)?);
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key_of);
    config.with_context(|| format!("{} does not go with {}", key.display(), certificate.display()))
}

/// A socket that listens, for as long as the agent runs.
struct Bound {
    address: Address,
    socket: OwnedFd,
}

impl Bound {
    fn bind(address: &Address) -> Result<Self> {
        let socket = match address {
            Address::Tcp(tcp) => bind_tcp(*tcp).with_context(|| format!("cannot listen on {tcp}"))?.into(),
            Address::Unix(path) => {
                bind_unix(path).with_context(|| format!("cannot listen on unix:{}", path.display()))?.into()
            }
        };
        Ok(Self { address: address.clone(), socket })
    }

    /// For a publisher, to be asked as the setup says.
    fn listener(&self, setup: &Setup) -> Result<Listener> {
        let socket = self.socket.try_clone().context("cannot start")?;
        let arguments = &setup.arguments;
        let for_metrics = arguments.metrics_listen.contains(&self.address);
        Ok(match &self.address {
            Address::Unix(_) => {
                let scope = if for_metrics { Scope::Metrics(None) } else { Scope::Whole };
                Listener { socket: Socket::Unix(socket.into()), scope, tls: None }
            }
            // Whoever scrapes has no certificate of ours to check.
            Address::Tcp(address) if for_metrics => {
                let hosts = address.ip().is_loopback().then(|| Hosts::new(*address, &arguments.hosts));
                Listener { socket: Socket::Tcp(socket.into()), scope: Scope::Metrics(hosts), tls: None }
            }
            Address::Tcp(address) => {
                let token = setup.token.clone().context("a listener over TCP needs a token")?;
                let scope = Scope::Guarded(token, Hosts::new(*address, &arguments.hosts));
                Listener { socket: Socket::Tcp(socket.into()), scope, tls: setup.tls.clone() }
            }
        })
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Address::Unix(path) = &self.address {
            let _ = fs::remove_file(path);
        }
    }
}

/// All addresses are those of IPv4 alone where there is no IPv6.
fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).or_else(|error| match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL)
            if address == (Ipv6Addr::UNSPECIFIED, address.port()).into() =>
        {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port()))
        }
        _ => Err(error),
    })
}

/// Only its owner may open it. One that was left behind by an agent that has been killed is replaced; one that is in use is not.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        if UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another agent listens there"));
        }
        fs::remove_file(path)?;
    }
    let mask = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(path);
    nix::sys::stat::umask(mask);
    bound
}

/// The first process.
struct Agent {
    setup: Setup,
    bound: Vec<Bound>,
    collector: Collector,
    publisher: Publisher,
    signals: Signals,
}

/// A process that collects.
struct Collector {
    pid: Option<Pid>,
    /// It ends when this is closed.
    control: UnixStream,
}

/// A process that publishes.
struct Publisher {
    pid: Option<Pid>,
    began: Instant,
    /// Its end of the socket, for another one after it.
    socket: OwnedFd,
    /// It ends when this is closed.
    control: UnixStream,
}

/// What has happened.
enum Event {
    Stop,
    Reload,
    CollectorEnded,
    PublisherEnded,
}

/// A byte for each signal that came.
struct Signals {
    stop: UnixStream,
    reload: UnixStream,
    child: UnixStream,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        let on = |signals: &[i32]| {
            let (ours, theirs) = UnixStream::pair()?;
            ours.set_nonblocking(true)?;
            for signal in signals {
                pipe::register(*signal, theirs.try_clone()?)?;
            }
            Ok::<_, io::Error>(ours)
        };
        Ok(Self { stop: on(&[SIGTERM, SIGINT])?, reload: on(&[SIGHUP])?, child: on(&[SIGCHLD])? })
    }
}

/// Whether anything came since the last time.
fn drain(mut stream: &UnixStream) -> bool {
    let mut bytes = [0; 64];
    let mut any = false;
    while stream.read(&mut bytes).is_ok_and(|read| read > 0) {
        any = true;
    }
    any
}

impl Agent {
    fn begin(config: Option<&Path>) -> Result<Self> {
        let setup = Setup::read(config)?;
        let addresses = setup.arguments.listen.iter().chain(&setup.arguments.metrics_listen);
        let bound = addresses.map(Bound::bind).collect::<Result<Vec<_>>>()?;
        let signals = Signals::listen().context("cannot take signals")?;
        let (collector, socket) = collect(&setup, config)?;
        let publisher = publish(&setup, &bound, socket, true)?;
        Ok(Self { setup, bound, collector, publisher, signals })
    }

    /// Waits for the next thing that needs doing.
    fn wait(&mut self) -> Result<Event> {
        loop {
            let watched = [&self.signals.stop, &self.signals.reload, &self.signals.child, &self.collector.control];
            let mut polled = watched.map(|stream| PollFd::new(stream.as_fd(), PollFlags::POLLIN));
            match poll(&mut polled, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error).context("cannot wait"),
            }
            if drain(&self.signals.stop) {
                return Ok(Event::Stop);
            }
            if drain(&self.signals.child) {
                if has_ended(&mut self.collector.pid) {
                    return Ok(Event::CollectorEnded);
                }
                if has_ended(&mut self.publisher.pid) {
                    return Ok(Event::PublisherEnded);
                }
            }
            if drain(&self.signals.reload) {
                return Ok(Event::Reload);
            }
            if drain(&self.collector.control) {
                _ = sd_notify::notify(&[NotifyState::Ready, NotifyState::Watchdog]);
            }
        }
    }

    /// Takes over what files say now; if that is wrong, goes on as before.
    fn reload(&mut self, config: Option<&Path>) -> Result<()> {
        let setup = match Setup::read(config) {
            Ok(setup) => setup,
            Err(error) => {
                log::line(&format!("not reloaded, all is as it was: {error:#}"));
                return Ok(());
            }
        };
        let wanted: Vec<Address> =
            setup.arguments.listen.iter().chain(&setup.arguments.metrics_listen).cloned().collect();
        let is_there = |address: &&Address| self.bound.iter().any(|bound| bound.address == **address);
        let more = wanted.iter().filter(|address| !is_there(address)).map(Bound::bind).collect::<Result<Vec<_>>>();
        match more {
            Ok(more) => self.bound.extend(more),
            Err(error) => {
                log::line(&format!("not reloaded, all is as it was: {error:#}"));
                return Ok(());
            }
        }
        let begins_anew = setup.collection() != self.setup.collection();
        self.setup = setup;
        if begins_anew {
            self.end_collector();
        }
        self.end_publisher();
        if begins_anew {
            (self.collector, self.publisher.socket) = collect(&self.setup, config)?;
        }
        self.bound.retain(|bound| wanted.contains(&bound.address));
        self.publish_again(begins_anew)?;
        log::line(if begins_anew { "reloaded; collecting begins anew" } else { "reloaded" });
        Ok(())
    }

    /// Begins another publisher where there is none.
    fn publish_again(&mut self, is_first: bool) -> Result<()> {
        let socket = self.publisher.socket.try_clone().context("cannot start")?;
        self.publisher = publish(&self.setup, &self.bound, socket, is_first)?;
        Ok(())
    }

    /// Ends the others: the collector first, so that the publisher has all there is. Whether they ended in time.
    fn end(&mut self) -> bool {
        let collector = self.end_collector();
        let publisher = self.end_publisher();
        collector && publisher
    }

    fn end_collector(&mut self) -> bool {
        end(&self.collector.control, &mut self.collector.pid, &self.signals.child)
    }

    fn end_publisher(&mut self) -> bool {
        end(&self.publisher.control, &mut self.publisher.pid, &self.signals.child)
    }
}

/// Ends one of ours, by force if it takes too long. Whether it ended in time.
fn end(control: &UnixStream, pid: &mut Option<Pid>, child: &UnixStream) -> bool {
    let _ = control.shutdown(Shutdown::Both);
    if waits_for(pid, child, END_TIMEOUT) {
        return true;
    }
    if let Some(pid) = *pid {
        log::line("a process of it did not end in time and is killed");
        // It is another user's: without CAP_KILL it cannot be.
        let _ = kill(pid, Signal::SIGKILL);
    }
    waits_for(pid, child, KILL_TIMEOUT);
    *pid = None;
    false
}

fn waits_for(pid: &mut Option<Pid>, child: &UnixStream, time: Duration) -> bool {
    let deadline = Instant::now() + time;
    while !has_ended(pid) {
        if Instant::now() >= deadline {
            return false;
        }
        let mut polled = [PollFd::new(child.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut polled, 100_u16);
        drain(child);
    }
    true
}

fn has_ended(pid: &mut Option<Pid>) -> bool {
    let Some(of) = *pid else { return true };
    let is_running = matches!(waitpid(of, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive));
    if !is_running {
        *pid = None;
    }
    !is_running
}

/// Starts the collector; gives the publisher's end of their socket as well.
fn collect(setup: &Setup, config: Option<&Path>) -> Result<(Collector, OwnedFd)> {
    let (ours, theirs) = wire::pair().context("cannot start")?;
    let (control, its_control) = UnixStream::pair().context("cannot start")?;
    control.set_nonblocking(true).context("cannot start")?;
    let keep = [ours.as_raw_fd(), its_control.as_raw_fd()];
    let pid = privsep::start_process(&keep, || {
        let prices = Arc::clone(&setup.prices);
        finish(config::load(config).and_then(|_| collecting(&setup.arguments, prices, &ours, its_control)))
    });
    Ok((Collector { pid: Some(pid.context("cannot start")?), control }, theirs))
}

/// Starts a publisher; the first for this collector, or one after another.
fn publish(setup: &Setup, bound: &[Bound], socket: OwnedFd, is_first: bool) -> Result<Publisher> {
    let plan = Plan {
        listeners: bound.iter().map(|bound| bound.listener(setup)).collect::<Result<_>>()?,
        groups: setup.arguments.probes.chosen(),
        interval: setup.arguments.interval,
        exporter: setup.exporter.clone(),
        tells_honeybeepf: setup.arguments.honeybeepf_metrics,
        is_first,
    };
    let its_socket = socket.try_clone().context("cannot start")?;
    let (control, its_control) = UnixStream::pair().context("cannot start")?;
    let own = [its_socket.as_raw_fd(), its_control.as_raw_fd()];
    let keep: Vec<RawFd> = plan.listeners.iter().map(Listener::descriptor).chain(own).collect();
    let pid = privsep::start_process(&keep, move || {
        let held = privsep::hold_publisher(&SplitOptions::default()).context("cannot start");
        finish(held.and_then(|()| publisher::run(its_socket, its_control, plan)))
    });
    Ok(Publisher { pid: Some(pid.context("cannot start")?), began: Instant::now(), socket, control })
}

/// Says what went wrong, if anything did; gives the exit status.
fn finish(result: Result<()>) -> u8 {
    match result {
        Ok(()) => 0,
        Err(error) => {
            log::line(&format!("{error:#}"));
            1
        }
    }
}

/// Collects, and sends snapshots to the publisher, until the first process closes `control`.
fn collecting(arguments: &AgentArgs, prices: Arc<Prices>, publisher: &OwnedFd, mut control: UnixStream) -> Result<()> {
    let session = Session::begin(&arguments.sources)?;
    let options = Options {
        groups: arguments.probes.chosen(),
        window: arguments.window,
        interval: Some(arguments.interval),
        max_overhead: arguments.bounds.max_overhead.0,
        max_bytes_per_second: arguments.bounds.max_bytes_per_second,
        engines: !arguments.sources.no_engines,
        prices,
        series: true,
    };
    let (ended, has_ended) = mpsc::channel();
    let (delivered, is_delivered) = mpsc::sync_channel(1);
    let (frames, queue) = mpsc::sync_channel::<Arc<Snapshot>>(QUEUE);
    let sent = Arc::new(Mutex::new(None));
    let socket = publisher.try_clone().context("cannot start")?;
    let last_sent = Arc::clone(&sent);
    let sending = thread::Builder::new().name("sender".into()).spawn(move || send(&queue, &socket, &last_sent));
    let sending = sending.context("cannot start")?;
    let collector = session.start(options, move |update| match update {
        // A publisher that does not keep up misses some: their numbers say so.
        Update::Snapshot(snapshot) => {
            _ = frames.try_send(snapshot);
            _ = delivered.try_send(());
        }
        Update::Ended(why) => _ = ended.send(why),
    })?;
    loop {
        let mut polled =
            [PollFd::new(publisher.as_fd(), PollFlags::POLLIN), PollFd::new(control.as_fd(), PollFlags::POLLIN)];
        // Also to see whether the collection has ended.
        match poll(&mut polled, WATCH) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot wait"),
        }
        let [asks, ends] = polled.map(|polled| polled.any().unwrap_or(false));
        if let Ok(why) = has_ended.try_recv() {
            bail!(why);
        }
        if ends && control.read(&mut [0]).is_ok_and(|read| read == 0) {
            break;
        }
        let sent: Option<Instant> = sent.lock().map_or(None, |sent| *sent);
        if sent.is_some_and(|sent| sent.elapsed() < (arguments.interval * MISSED_INTERVALS).max(STOPPED)) {
            // The first process need not listen just now.
            _ = control.write_all(&[ALIVE]);
        }
        // The first is taken as soon as there is one.
        if asks && wire::take_asked(publisher) || sent.is_none() {
            collector.take_now();
        }
    }
    // What ended since the last snapshot.
    _ = is_delivered.try_recv();
    collector.take_now();
    _ = is_delivered.recv_timeout(LAST_SNAPSHOT);
    drop(collector);
    let _ = sending.join();
    Ok(())
}

/// Hands snapshots on, and says when it did.
fn send(queue: &Receiver<Arc<Snapshot>>, publisher: &OwnedFd, last_sent: &Mutex<Option<Instant>>) {
    for snapshot in queue {
        let sent = serde_json::to_vec(&*snapshot).map_err(io::Error::from);
        match sent.and_then(|json| wire::send_snapshot(publisher, &json)) {
            Ok(()) => {
                if let Ok(mut sent) = last_sent.lock() {
                    *sent = Some(Instant::now());
                }
            }
            Err(error) => log::line(&format!("the publisher did not take a snapshot: {error}")),
        }
    }
}
