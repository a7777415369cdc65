//! The command line. Its help texts are the manual.
//!
//! Options allow values that begin with a hyphen, for their parsers say what is wrong with `-1` and what is right; otherwise
//! it would be called an unexpected argument. Not those that name files: `--json` is none that anyone wants to write to.

use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use hbpf_host::protocol::Group;

use crate::agent::Address;
use crate::condition::Condition;
use crate::format;
use crate::remote::Url;
use crate::ui::Palette;

/// Least size at which a recording goes on in a new file.
const MIN_ROTATED: u64 = 16_000;

/// Shorter than this and the looking costs more than it shows.
const MIN_INTERVAL: Duration = Duration::from_millis(100);
/// Longer than this is a mistake of units.
const MAX_INTERVAL: Duration = Duration::from_secs(3600);
/// Likewise of a recording: a month.
const MAX_RECORDED: Duration = Duration::from_secs(31 * 86_400);
/// Rates over less are noise.
pub(crate) const MIN_WINDOW: Duration = Duration::from_secs(1);
/// What the aggregator keeps samples for.
pub(crate) const MAX_WINDOW: Duration = Duration::from_secs(60);

const EXIT_CODES: &str = "\
Exit codes:
  0  success
  1  it did not work; standard error says why
  2  bad usage";

#[derive(Parser, Debug)]
#[command(
    name = "hbpf",
    version,
    about = "Which process talks to which model, how fast, and what fails: live, from the kernel.",
    long_about = "Which process talks to which model, how many tokens a second go in and out, how long people wait for \
        them and what fails: seen live from the kernel, without touching the workload.\n\n\
        Of traffic that is not a model call at most 1 KiB a message is looked at and dropped (more, if it shares \
        an HTTP/2 connection with calls), and of TLS connections what names their server; the text of prompts and answers is never kept, shown or written.",
    after_help = EXIT_CODES,
    after_long_help = "Examples:\n  sudo hbpf top                 live view\n  sudo hbpf snapshot --json     one look, for scripts\n  \
        sudo hbpf doctor              what can be seen here, and what mends the rest\n\n\
        Exit codes:\n  0  success\n  1  it did not work; standard error says why\n  2  bad usage"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// A file with providers and APIs of your own; /etc/hbpf/config.toml if there is one
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

impl Cli {
    /// What the parser cannot tell: whether the options make sense together.
    pub(crate) fn checked(self) -> Result<Self, clap::Error> {
        let (name, probes) = match &self.command {
            Some(Command::Top(arguments)) => ("top", &arguments.probes),
            Some(Command::Snapshot(arguments)) => ("snapshot", &arguments.probes),
            Some(Command::Record(arguments)) => ("record", &arguments.probes),
            Some(Command::Trace(arguments)) => ("trace", &arguments.probes),
            Some(Command::Check(arguments)) => ("check", &arguments.probes),
            Some(Command::Agent(arguments)) => ("agent", &arguments.probes),
            Some(
                Command::Doctor(_)
                | Command::Prices(_)
                | Command::Report(_)
                | Command::Diff(_)
                | Command::Completions(_)
                | Command::Config(_)
                | Command::Man(_),
            )
            | None => return Ok(self),
        };
        let Some((option, group)) = probes.contradiction() else { return Ok(self) };
        let text = format!("the argument '{option}' cannot be used with '--groups {}'", group.name());
        let mut command = Self::command();
        // So that the usage is that of the subcommand.
        command.build();
        let mut command = command.find_subcommand(name).cloned().unwrap_or(command);
        Err(command.error(ErrorKind::ArgumentConflict, text))
    }
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Live view of processes, requests, tokens and waiting times
    #[command(
        long_about = "Live view of the processes that talk to models or serve them: requests, tokens a second, time to \
            first token, gaps between tokens, errors, CPU and memory. Press ? for the keys.\n\n\
            Needs root to see model traffic. Without, it shows processes and the machine, and says what is missing. \
            With --connect it shows another host, and with --prometheus many, and needs no root.",
        after_long_help = "Examples:\n  sudo hbpf top\n  sudo hbpf top --interval 500ms --window 10s\n  \
            sudo hbpf top --batch -n 3 > frames.txt\n  hbpf top --replay recording.ndjson\n  \
            hbpf top --connect node1.example:9465 --token-file token\n  hbpf top --prometheus https://prometheus.example\n\n\
            Exit codes:\n  0  left by the user, or all frames printed\n  \
            1  no terminal, or the collection ended early; standard error says why\n  2  bad usage"
    )]
    Top(Top),
    /// One look, or a stream of them, as text or JSON
    #[command(
        long_about = "Observes for a while and prints what it saw.\n\n\
            Data goes to standard output or --output, everything else to standard error. With --interval, JSON is written as one \
            object per line (NDJSON). What could not be collected is listed in the snapshot's `errors`.\n\n\
            Needs root to see model traffic; without, it shows processes and the machine.",
        after_long_help = "Examples:\n  sudo hbpf snapshot\n  sudo hbpf snapshot --json --duration 10s | jq .totals.tokens\n  \
            sudo hbpf snapshot --json --interval 1s --count 60 > minute.ndjson\n  \
            sudo hbpf snapshot --json -o for-the-ticket.json\n  \
            hbpf snapshot --schema > hbpf-snapshot.schema.json\n  \
            hbpf snapshot --json --connect node1.example:9465 --token-file token\n\n\
            Exit codes:\n  0  a snapshot was taken (its `errors` may be non-empty)\n  \
            1  nothing could be collected\n  2  bad usage"
    )]
    Snapshot(SnapshotArgs),
    /// Writes what the live view would show into a file, to be looked at later
    #[command(
        long_about = "Observes, and writes a snapshot every so often into a new file: compressed, each in the file as soon as it is taken, \
            so that a file that is cut off has all of them up to the cut. `hbpf top --replay FILE` shows it in the live view; \
            `zstd -dc FILE` gives the snapshots as JSON, one a line.\n\nNeeds root to see model traffic.",
        after_long_help = "Examples:\n  sudo hbpf record -o incident.hbpf --for 10m\n  sudo hbpf record -o night.hbpf --interval 10s\n  \
            sudo hbpf record -o always.hbpf --rotate 500M\n  sudo hbpf record -o alarm.hbpf --last 15m     and on the alarm: sudo pkill -USR1 -f 'hbpf record'\n  \
            hbpf top --replay incident.hbpf\n  zstd -dc incident.hbpf | jq .totals.tokens\n\n\
            Exit codes:\n  0  it was recorded until its end, or until it was stopped by a signal\n  \
            1  nothing could be collected, or the file cannot be written; standard error says why\n  2  bad usage"
    )]
    Record(RecordArgs),
    /// A recording as a page for a ticket: HTML with charts, or Markdown
    #[command(
        long_about = "Writes what happened in a recording, or in a part of it, as one page: rates, times, failures, costs, findings, \
            models, endpoints, processes, and in HTML charts over time. The page loads nothing from anywhere.",
        after_long_help = "Examples:\n  hbpf report incident.hbpf -o incident.html\n  hbpf report incident.hbpf --from 14:05 --to 14:20 > incident.md\n\n\
            Exit codes:\n  0  it was written\n  1  the recording cannot be read, or the file cannot be made\n  2  bad usage"
    )]
    Report(ReportArgs),
    /// What is different between two recordings, or before and after a time in one
    #[command(
        long_about = "Compares rates, failures, costs and times of two recordings, or of one before and after a time: of all exchanges, and \
            of models and endpoints what is different; what has changed most first. Times are told apart by some ten percent.",
        after_long_help = "Examples:\n  hbpf diff before.hbpf after.hbpf\n  hbpf diff today.hbpf --at 14:05          before and after a deployment\n  \
            hbpf diff before.hbpf after.hbpf --json\n\nExit codes:\n  0  they were compared\n  1  a recording cannot be read\n  2  bad usage"
    )]
    Diff(DiffArgs),
    /// Always on: feeds metrics systems, and answers over HTTP
    #[command(
        long_about = "Observes without a view, and answers over HTTP: /metrics for Prometheus, /snapshot (as `hbpf snapshot --json`), \
            /healthz and /readyz.\n\n\
            What can be told by an option can be told by the environment (--token-file: HBPF_AGENT_TOKEN_FILE) and under [agent] in \
            the configuration file (token_file), in this order. SIGHUP reads files again and goes on as before if something is wrong \
            with them; SIGTERM ends it in order. Under systemd it says when it is ready and that it is alive.\n\nNeeds root.",
        after_long_help = "Examples:\n  sudo hbpf agent\n  sudo curl --unix-socket /run/hbpf/agent.sock http://localhost/metrics\n  \
            sudo hbpf agent --metrics-listen 127.0.0.1:9464\n  \
            sudo hbpf agent --listen :9465 --token-file /etc/hbpf/token --tls-cert cert.pem --tls-key key.pem --host node1.example\n\n\
            Exit codes:\n  0  it was told to end\n  1  it cannot begin, or the collection ended early; standard error says why\n  2  bad usage"
    )]
    Agent(Box<AgentArgs>),
    /// A line for each exchange with a model that ends, like a server's access log
    #[command(
        long_about = "Prints a line for each exchange with a model when it has ended: whose it was, with which model, what came of it, how \
            long its first token and all of it took, and how many tokens it had. Of an exchange between two processes of this host \
            there is a line for either end, unless --role says which.\n\n\
            Lines go to standard output. With --json each is an object, as under `requests.finished` of a snapshot. Standard error \
            says when the probes are in place and what is not seen: groups of probes that cannot be put in or are switched off \
            meanwhile, what is given up to keep within --max-overhead, what was lost, and how many were left out because what is \
            written is not read in time.\n\nNeeds root.",
        after_long_help = "Examples:\n  sudo hbpf trace\n  sudo hbpf trace --failed --role client\n  \
            sudo hbpf trace --json --pid 4711 -n 100 > hundred.ndjson\n  \
            sudo hbpf trace --json | jq 'select(.duration_seconds > 10)'\n\n\
            Exit codes:\n  0  as many were printed as asked for, or whoever reads has seen enough\n  \
            1  nothing can be seen, or the collection ended early; standard error says why\n  2  bad usage"
    )]
    Trace(TraceArgs),
    /// Whether something is too slow, too dear or failing, as an exit code
    #[command(
        long_about = "Observes for a while and says whether conditions hold, for cron jobs, tests of a release and the like.\n\n\
            A condition is a measure, <, <=, > or >=, and a limit. Measures of times: ttft (to the first token), itl (between tokens) \
            and duration, each with _mean, _p50, _p90, _p95, _p99 or _max. Others: errors (percent of the requests that have ended), \
            requests, failed, abandoned, rate_limited, stalls, in_flight, tokens_per_second (output, over the last minute at \
            most) and cost_per_hour (US dollars, likewise).\n\n\
            A request that still runs, or waits for its first token, and has done so for longer than the limit, counts with the time \
            that it has taken so far. Of a model or process of which nothing is seen, counts and rates are 0. What is known in part \
            only is unknown unless that part decides: where some model traffic was not seen, or its cost is not known.\n\nNeeds root.",
        after_long_help = "Examples:\n  sudo hbpf check 'ttft_p99>2s' --for 1m || page-someone\n  \
            sudo hbpf check 'errors>1%' 'duration_p95>30s' --model gpt-4o\n  \
            sudo hbpf check 'tokens_per_second<100' --pid 4711\n  \
            sudo hbpf check 'requests<1' --model gpt-4o --for 5m\n\n\
            Exit codes:\n  0  no condition holds\n  1  one does\n  2  bad usage\n  \
            3  it cannot be told: nothing could be collected, there was nothing to measure, or not all was seen; standard error \
            says why"
    )]
    Check(CheckArgs),
    /// Checks what can be seen on this machine, and says what mends the rest
    #[command(
        long_about = "Checks kernel, privileges, BPF features, control groups, TLS libraries and the processes that \
            cannot be seen into, and says what mends each problem.",
        after_long_help = "Examples:\n  sudo hbpf doctor\n  sudo hbpf doctor --json\n  sudo hbpf doctor --pid 4711\n\n\
            Exit codes:\n  0  all is well, or there are warnings only; with --pid, its TLS traffic can be seen, or it has none\n  \
            1  at least one check failed, or the checks could not run; with --pid, it is blind\n  2  bad usage"
    )]
    Doctor(Doctor),
    /// What tokens are taken to cost, by provider and model
    #[command(
        long_about = "Prints the list prices by which costs are reckoned, in the form that --prices reads, and of what day they are. \
            Those that come with hbpf hold where neither --prices nor a table that --update has installed has the model. A tier \
            (batch, fast, flex, priority) stands behind the model's name and a space.\n\n\
            Costs by these are estimates: what was agreed upon, reserved capacity and fees for tools are on no wire.",
        after_long_help = "Examples:\n  hbpf prices\n  hbpf prices sonnet haiku\n  hbpf prices --prices ours.tsv > all.tsv\n  \
            hbpf prices --check model_prices_and_context_window.json\n  sudo hbpf prices --update ours.tsv\n\n\
            Exit codes:\n  0  prices were printed, are in order, or were installed\n  \
            1  there is none, or the file is no table; standard error says why\n  2  bad usage"
    )]
    Prices(PricesArgs),
    /// Completions for a shell, to standard output
    #[command(
        after_long_help = "Examples:\n  hbpf completions bash > /etc/bash_completion.d/hbpf\n  hbpf completions zsh > \"${fpath[1]}/_hbpf\"\n  \
            hbpf completions fish > ~/.config/fish/completions/hbpf.fish"
    )]
    Completions(CompletionsArgs),
    /// The configuration file: where it is, whether it is right, and one to begin with
    #[command(
        after_long_help = "Examples:\n  hbpf config init > /etc/hbpf/config.toml\n  hbpf config validate\n  hbpf --config mine.toml config validate\n\n\
            Exit codes:\n  0  it was done; `validate`: the file is right, or there is none\n  2  the file is wrong; standard error says where"
    )]
    Config(ConfigArgs),
    /// Manual pages: one to standard output, or all into a directory
    #[command(after_long_help = "Examples:\n  hbpf man top | man -l -\n  hbpf man --dir /usr/local/share/man/man1")]
    Man(ManArgs),
}

#[derive(Args, Debug)]
pub(crate) struct PricesArgs {
    /// A table of prices that hold over those that come with hbpf: as this command prints it, or LiteLLM's
    /// model_prices_and_context_window.json
    #[arg(long, value_name = "FILE")]
    pub(crate) prices: Option<PathBuf>,
    /// Print only what that file has
    #[arg(long, requires = "prices")]
    pub(crate) only: bool,
    /// Say how many prices this file has and of what day they are, or which of its lines are wrong
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prices", "update", "models"])]
    pub(crate) check: Option<PathBuf>,
    /// Check this file, and install it as the table that all commands load without --prices: as /etc/hbpf/prices.tsv for
    /// everybody if you are root, else for yourself, as hbpf/prices.tsv in $XDG_CONFIG_HOME or ~/.config
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prices", "models"])]
    pub(crate) update: Option<PathBuf>,
    /// Parts of names of models; all of them if there is none
    #[arg(value_name = "MODEL")]
    pub(crate) models: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Top {
    /// Time between frames, e.g. 500ms or 2s (bare numbers are seconds; at least 100ms)
    #[arg(short = 'd', long, visible_alias = "delay", value_name = "DURATION", default_value = "1s", value_parser = interval,
        allow_hyphen_values = true)]
    pub(crate) interval: Duration,
    /// What rates and recent waiting times are over, 1s to 60s
    #[arg(short, long, value_name = "DURATION", default_value = "5s", value_parser = window, conflicts_with = "place",
        allow_hyphen_values = true)]
    pub(crate) window: Duration,
    /// Probe groups to begin with
    #[command(flatten)]
    pub(crate) probes: Probes,
    /// What observing may cost
    #[command(flatten)]
    pub(crate) bounds: Bounds,
    /// What is asked besides the kernel
    #[command(flatten)]
    pub(crate) sources: Sources,
    /// What tokens are taken to cost
    #[command(flatten)]
    pub(crate) pricing: Pricing,
    /// Print plain frames to standard output instead of taking over the terminal
    #[arg(short, long)]
    pub(crate) batch: bool,
    /// With --batch: how many frames; without, until interrupted
    #[arg(short = 'n', long, value_name = "N", requires = "batch", value_parser = count, allow_hyphen_values = true)]
    pub(crate) count: Option<u64>,
    /// Colours, in place of those of the configuration file
    #[arg(long, value_enum, value_name = "NAME")]
    pub(crate) theme: Option<Palette>,
    /// Only ASCII characters, whatever the locale says
    #[arg(long)]
    pub(crate) ascii: bool,
    /// Play a file of snapshots (as `hbpf record` writes it, or `hbpf snapshot --json --interval`) instead of observing; needs
    /// no root
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "groups", "no_tls", "no_plain", "interval", "window", "max_overhead", "max_bytes_per_second",
        "nvml_library", "no_engines", "place",
    ])]
    pub(crate) replay: Option<PathBuf>,
    /// Where to look instead of at this machine
    #[command(flatten)]
    pub(crate) elsewhere: Elsewhere,
}

/// Options that are about observing this machine.
const OBSERVING: [&str; 8] =
    ["groups", "no_tls", "no_plain", "max_overhead", "max_bytes_per_second", "nvml_library", "no_engines", "prices"];

/// Where to look instead of at this machine.
#[derive(Args, Clone, Debug)]
pub(crate) struct Elsewhere {
    /// Look at another host, by its `hbpf agent` (its --listen): HOST:PORT, which must prove by its certificate to be that host, or
    /// http://HOST:PORT on the loopback, as at this end of an SSH tunnel
    #[arg(long, value_name = "ADDRESS", value_parser = Url::parse, group = "place", conflicts_with = "prometheus",
        conflicts_with_all = OBSERVING)]
    pub(crate) connect: Option<Url>,
    /// Look at many hosts at once, by the Prometheus (or a server with its API) that scrapes their agents
    #[arg(long, value_name = "URL", value_parser = Url::parse, group = "place", conflicts_with_all = OBSERVING)]
    pub(crate) prometheus: Option<Url>,
    /// A file with the token that it wants, sent as `Authorization: Bearer TOKEN`
    #[arg(long, value_name = "FILE", requires = "place")]
    pub(crate) token_file: Option<PathBuf>,
    /// Certificates of those who may vouch for it, in PEM, in place of the system's
    #[arg(long, value_name = "FILE", requires = "place")]
    pub(crate) ca: Option<PathBuf>,
    /// Speak without TLS to other hosts than this one
    #[arg(long, requires = "place")]
    pub(crate) insecure: bool,
    /// With --prometheus: only series that match this, as in a selector: 'cluster="prod",namespace=~"llm-.*"'
    #[arg(long, value_name = "MATCHERS", requires = "prometheus")]
    pub(crate) matching: Option<String>,
    /// With --prometheus: the label that tells hosts apart
    #[arg(long, value_name = "LABEL", requires = "prometheus", default_value = "instance", value_parser = label)]
    pub(crate) host_label: String,
    /// With --prometheus: what all numbers are over, at least twice the time between two scrapes
    #[arg(long, value_name = "DURATION", requires = "prometheus", default_value = "2m", value_parser = range, allow_hyphen_values = true)]
    pub(crate) range: Duration,
}

/// How a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReportFormat {
    /// One page with its charts in it, that loads nothing
    Html,
    /// Tables alone
    Md,
}

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// The recording
    #[arg(value_name = "FILE")]
    pub(crate) recording: PathBuf,
    /// Into a new file, which is never written over; without, to standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Without, HTML into a file, unless that ends in .md, and Markdown to standard output
    #[arg(long, value_enum)]
    format: Option<ReportFormat>,
    /// From this time on: 14:05 (UTC), a date and time, -10m from the end, or 50%
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub(crate) from: Option<String>,
    /// Up to this time
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub(crate) to: Option<String>,
}

impl ReportArgs {
    pub(crate) fn format(&self) -> ReportFormat {
        let by_name = match &self.output {
            Some(path) if path.extension().is_none_or(|extension| extension != "md") => ReportFormat::Html,
            _ => ReportFormat::Md,
        };
        self.format.unwrap_or(by_name)
    }
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    #[arg(value_name = "SHELL", value_enum)]
    pub(crate) shell: Shell,
}

/// What is done with the configuration file.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ConfigAction {
    /// One with everything in it that can be set, as comments, to standard output
    Init,
    /// Says whether the file is right
    Validate,
    /// Says where the file is looked for
    Path,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[arg(value_enum)]
    pub(crate) action: ConfigAction,
}

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Of this command; without, of hbpf as a whole
    #[arg(value_name = "COMMAND", conflicts_with = "dir")]
    pub(crate) command: Option<String>,
    /// All of them into this directory, over those that are there
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// The recording of before
    #[arg(value_name = "BEFORE")]
    pub(crate) before: PathBuf,
    /// That of after; without it the first is cut in two, with --at
    #[arg(value_name = "AFTER", required_unless_present = "at", conflicts_with = "at")]
    pub(crate) after: Option<PathBuf>,
    /// Where before ends and after begins: 14:05 (UTC), a date and time, -10m from the end, or 50%
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub(crate) at: Option<String>,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct RecordArgs {
    /// The file to write, which must be new. Only its owner may read it: under sudo, you
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// How long; without, until interrupted
    #[arg(long = "for", value_name = "DURATION", value_parser = recorded, allow_hyphen_values = true)]
    pub(crate) duration: Option<Duration>,
    /// Once FILE is this large, what it has goes to FILE.1, in place of what was there, and it begins anew: there are never more
    /// than the two (100M, 1G, 512Ki; at least 16k)
    #[arg(long, value_name = "BYTES", value_parser = rotated, allow_hyphen_values = true)]
    pub(crate) rotate: Option<u64>,
    /// Keep the last minutes in memory, 512 MiB at most, and write them when it ends or is sent SIGUSR1, again at each: a flight
    /// recorder, to be left running for the alarm that comes
    #[arg(long, value_name = "DURATION", value_parser = recorded, conflicts_with = "rotate", allow_hyphen_values = true)]
    pub(crate) last: Option<Duration>,
    /// Time between snapshots, e.g. 500ms or 2s (bare numbers are seconds; at least 100ms)
    #[arg(short = 'd', long, value_name = "DURATION", default_value = "1s", value_parser = interval, allow_hyphen_values = true)]
    pub(crate) interval: Duration,
    /// What rates and recent waiting times are over, 1s to 60s
    #[arg(short, long, value_name = "DURATION", default_value = "5s", value_parser = window, allow_hyphen_values = true)]
    pub(crate) window: Duration,
    /// Probe groups to use
    #[command(flatten)]
    pub(crate) probes: Probes,
    /// What observing may cost
    #[command(flatten)]
    pub(crate) bounds: Bounds,
    /// What is asked besides the kernel
    #[command(flatten)]
    pub(crate) sources: Sources,
    /// What tokens are taken to cost
    #[command(flatten)]
    pub(crate) pricing: Pricing,
}

#[derive(Args, Debug)]
pub(crate) struct SnapshotArgs {
    /// Write JSON; the same as --format json
    #[arg(long, conflicts_with = "format")]
    pub(crate) json: bool,
    /// How to write
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Format::Text, allow_hyphen_values = true)]
    pub(crate) format: Format,
    /// How long to observe before the snapshot is taken, from when the probes are in place: putting them in takes a second
    /// or two, on big hosts more, and comes before. Rates are over this time, up to 60s of it
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = interval,
        conflicts_with_all = ["interval", "place"], allow_hyphen_values = true)]
    pub(crate) duration: Duration,
    /// Take a snapshot every so often instead of one; rates are over 5s, or over the interval if that is longer
    #[arg(short = 'd', long, value_name = "DURATION", value_parser = interval, allow_hyphen_values = true)]
    pub(crate) interval: Option<Duration>,
    /// With --interval: how many; without, until interrupted
    // What is required is not missed beside an option that excludes it: with --duration that has to be said.
    #[arg(short = 'n', long, value_name = "N", requires = "interval", conflicts_with = "duration", value_parser = count,
        allow_hyphen_values = true)]
    pub(crate) count: Option<u64>,
    /// Only this process; may be given more than once. Filters processes, their requests and workloads; totals,
    /// models and endpoints stay those of the host
    #[arg(short, long = "pid", value_name = "PID", value_parser = pid, allow_hyphen_values = true)]
    pub(crate) pids: Vec<u32>,
    /// Write to this new file instead of standard output (`-`). Only its owner may read it: under sudo, you
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Print the JSON Schema of a snapshot and exit; needs no privileges
    #[arg(long, exclusive = true)]
    pub(crate) schema: bool,
    /// Where to look instead of at this machine
    #[command(flatten)]
    pub(crate) elsewhere: Elsewhere,
    /// Probe groups to use
    #[command(flatten)]
    pub(crate) probes: Probes,
    /// What observing may cost
    #[command(flatten)]
    pub(crate) bounds: Bounds,
    /// What is asked besides the kernel
    #[command(flatten)]
    pub(crate) sources: Sources,
    /// What tokens are taken to cost
    #[command(flatten)]
    pub(crate) pricing: Pricing,
}

impl SnapshotArgs {
    pub(crate) fn format(&self) -> Format {
        if self.json { Format::Json } else { self.format }
    }
}

#[derive(Args, Clone, Debug)]
pub(crate) struct TraceArgs {
    /// Write each as an object in JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Only this process's; may be given more than once
    #[arg(short, long = "pid", value_name = "PID", value_parser = pid, allow_hyphen_values = true)]
    pub(crate) pids: Vec<u32>,
    /// Only those with this in the model's name, whether it was asked for or has answered
    #[arg(short, long, value_name = "MODEL", allow_hyphen_values = true)]
    pub(crate) model: Option<String>,
    /// Only this end
    #[arg(long, value_enum, value_name = "ROLE", allow_hyphen_values = true)]
    pub(crate) role: Option<End>,
    /// Only those that have failed or were given up
    #[arg(long)]
    pub(crate) failed: bool,
    /// How many; without, until interrupted
    #[arg(short = 'n', long, value_name = "N", value_parser = count, allow_hyphen_values = true)]
    pub(crate) count: Option<u64>,
    /// Probe groups to use
    #[command(flatten)]
    pub(crate) probes: Probes,
    /// What observing may cost
    #[command(flatten)]
    pub(crate) bounds: Bounds,
    /// What tokens are taken to cost
    #[command(flatten)]
    pub(crate) pricing: Pricing,
}

/// What tokens are taken to cost.
#[derive(Args, Clone, Debug)]
pub(crate) struct Pricing {
    /// A table of prices that hold over those that come with hbpf: as `hbpf prices` prints it, or LiteLLM's
    /// model_prices_and_context_window.json
    #[arg(long, value_name = "FILE")]
    pub(crate) prices: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct AgentArgs {
    /// Where to answer all of it: unix:/a/path, which its owner alone may open, ADDRESS:PORT or :PORT, which need --token-file; may
    /// be given more than once
    #[arg(long, value_name = "ADDRESS", value_parser = Address::parse, default_value = "unix:/run/hbpf/agent.sock",
        allow_hyphen_values = true)]
    pub(crate) listen: Vec<Address>,
    /// Where to answer /metrics, /healthz and /readyz to anybody who can reach it, such as a Prometheus in the same network
    #[arg(long, value_name = "ADDRESS", value_parser = Address::parse, allow_hyphen_values = true)]
    pub(crate) metrics_listen: Vec<Address>,
    /// A file with the token that who asks over TCP has to send, as `Authorization: Bearer TOKEN`
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// A name by which it is asked over TCP, besides its addresses and localhost; may be given more than once
    #[arg(long = "host", value_name = "NAME", allow_hyphen_values = true)]
    pub(crate) hosts: Vec<String>,
    /// Certificates for TLS, in PEM, its own first
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The private key that goes with it, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Answer on other addresses than the loopback without TLS: what encrypts is something in front of it
    #[arg(long)]
    pub(crate) insecure: bool,
    /// An OpenTelemetry collector to send metrics to, such as http://collector:4318; OTEL_EXPORTER_OTLP_ENDPOINT and the other
    /// variables of OpenTelemetry hold as well
    #[arg(long, value_name = "URL")]
    pub(crate) otlp_endpoint: Option<String>,
    /// How: http/protobuf or grpc
    #[arg(long, value_name = "PROTOCOL")]
    pub(crate) otlp_protocol: Option<String>,
    /// Tell the same by honeybeePF's names as well (honeybeepf_llm_requests_total and the others), for dashboards that are not
    /// rewritten yet
    #[arg(long)]
    pub(crate) honeybeepf_metrics: bool,
    /// Send a span for each exchange as well, without anything of what was said
    #[arg(long)]
    pub(crate) otlp_spans: bool,
    /// Time between snapshots while nobody asks: each question for numbers has one taken
    #[arg(short = 'd', long, value_name = "DURATION", default_value = "10s", value_parser = interval, allow_hyphen_values = true)]
    pub(crate) interval: Duration,
    /// What rates are over, 1s to 60s
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = window, allow_hyphen_values = true)]
    pub(crate) window: Duration,
    /// Probe groups to use
    #[command(flatten)]
    pub(crate) probes: Probes,
    /// What observing may cost
    #[command(flatten)]
    pub(crate) bounds: Bounds,
    /// What is asked besides the kernel
    #[command(flatten)]
    pub(crate) sources: Sources,
    /// What tokens are taken to cost
    #[command(flatten)]
    pub(crate) pricing: Pricing,
}

/// An end of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum End {
    /// Who asks
    Client,
    /// Who answers
    Server,
}

#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// What shall not be, such as 'ttft_p99>2s'; --help names what there is
    #[arg(required = true, value_name = "CONDITION", value_parser = str::parse::<Condition>)]
    pub(crate) conditions: Vec<Condition>,
    /// How long to observe, from when the probes are in place
    #[arg(long = "for", value_name = "DURATION", default_value = "10s", value_parser = interval, allow_hyphen_values = true)]
    pub(crate) duration: Duration,
    /// Only models with this in their names, each for itself
    #[arg(short, long, value_name = "MODEL", conflicts_with = "pid", allow_hyphen_values = true)]
    pub(crate) model: Option<String>,
    /// Only this process
    #[arg(short, long, value_name = "PID", value_parser = pid, allow_hyphen_values = true)]
    pub(crate) pid: Option<u32>,
    /// Probe groups to use
    #[command(flatten)]
    pub(crate) probes: Probes,
    /// What observing may cost
    #[command(flatten)]
    pub(crate) bounds: Bounds,
    /// What tokens are taken to cost
    #[command(flatten)]
    pub(crate) pricing: Pricing,
}

#[derive(Args, Debug)]
pub(crate) struct Doctor {
    /// Explain what can be seen of this process, and why not the rest
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) pid: Option<u32>,
    /// Write JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which probe groups are on.
#[derive(Args, Clone, Debug)]
pub(crate) struct Probes {
    /// Probe groups to begin with, separated by commas, or all: llm-tls and llm-plain show model traffic, tools what MCP servers
    /// are asked on standard input, block requests to disks, net how connections fare, device who opens GPUs
    /// [default: llm-tls,llm-plain,tools]
    // Not clap's: then nobody could tell whether a group was named.
    #[arg(long, value_name = "GROUPS", value_delimiter = ',', value_parser = group, allow_hyphen_values = true)]
    pub(crate) groups: Vec<Groups>,
    /// Leave TLS libraries alone (uprobes are what costs most)
    #[arg(long)]
    pub(crate) no_tls: bool,
    /// Leave plain traffic alone
    #[arg(long)]
    pub(crate) no_plain: bool,
}

impl Probes {
    /// The groups to switch on, each once, in the order in which they are shown.
    pub(crate) fn chosen(&self) -> Vec<Group> {
        let is_named = |group: &Group| match self.groups[..] {
            [] => Group::DEFAULT.contains(group),
            _ => self.groups.iter().any(|named| named.0.contains(group)),
        };
        Group::ALL.into_iter().filter(|group| is_named(group) && self.leaving_out(*group).is_none()).collect()
    }

    /// A group that is asked for by its own name and left out, with the option that does it. `all` but one is no
    /// contradiction.
    fn contradiction(&self) -> Option<(&'static str, Group)> {
        self.groups.iter().find_map(|named| match named.0 {
            [group] => Some((self.leaving_out(*group)?, *group)),
            _ => None,
        })
    }

    /// The option that leaves a group out.
    fn leaving_out(&self, group: Group) -> Option<&'static str> {
        match group {
            Group::LlmTls => self.no_tls.then_some("--no-tls"),
            Group::LlmPlain => self.no_plain.then_some("--no-plain"),
            Group::Tools | Group::Block | Group::Net | Group::Device => None,
        }
    }
}

/// What one name of `--groups` stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Groups(&'static [Group]);

/// What observing may cost.
#[derive(Args, Clone, Debug)]
pub(crate) struct Bounds {
    /// What observing may cost, in percent of all CPUs together (100 is the whole machine): eBPF programs, traps
    /// (estimated) and hbpf's own processes. Beyond it hbpf leaves out processes without model traffic, then copies
    /// less, then switches off the dearest group of probes, and says so. `off` for no limit
    #[arg(long, value_name = "PERCENT", default_value = "2", value_parser = overhead, allow_hyphen_values = true)]
    pub(crate) max_overhead: MaxOverhead,
    /// Bytes of traffic that may be copied out of the kernel per second; of what is beyond only times and lengths are
    /// known. Powers of 1000 (500k, 64M or 64MB, 1.5G, 1e9) or of 1024 (512Ki, 64MiB), or plain bytes; `off` for no limit
    #[arg(long, value_name = "BYTES", default_value = "64MiB", value_parser = bytes_per_second,
        allow_hyphen_values = true)]
    pub(crate) max_bytes_per_second: u64,
}

/// What is asked besides the kernel.
#[derive(Args, Debug)]
pub(crate) struct Sources {
    /// NVIDIA's management library, libnvidia-ml.so.1, where it lies in an unusual place. Without, it is looked for if a
    /// driver is loaded
    #[arg(long, value_name = "FILE")]
    pub(crate) nvml_library: Option<PathBuf>,
    /// Do not ask local inference servers about themselves. Otherwise vLLM, SGLang, TGI, llama.cpp, Ollama, Triton and LiteLLM
    /// are asked for /metrics and the like every two seconds, which only reads and takes no credentials
    #[arg(long)]
    pub(crate) no_engines: bool,
}

/// A limit in percent of all CPUs, or none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct MaxOverhead(pub(crate) Option<f64>);

/// How snapshots are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

fn group(text: &str) -> Result<Groups, String> {
    const ALL: &[Group] = &Group::ALL;
    if text == "all" {
        return Ok(Groups(ALL));
    }
    let named = ALL.chunks(1).find(|group| group[0].name() == text).map(Groups);
    named.ok_or_else(|| format!("there are {}, and all", Group::ALL.map(Group::name).join(", ")))
}

fn count(text: &str) -> Result<u64, String> {
    text.trim().parse().ok().filter(|count| *count > 0).ok_or_else(|| "write a whole number, 1 or more".to_owned())
}

fn pid(text: &str) -> Result<u32, String> {
    text.trim().parse().ok().filter(|pid| *pid > 0).ok_or_else(|| "write the number of a process".to_owned())
}

pub(crate) fn overhead(text: &str) -> Result<MaxOverhead, String> {
    let text = text.trim();
    if text.eq_ignore_ascii_case("off") {
        return Ok(MaxOverhead(None));
    }
    let percent = text.strip_suffix('%').unwrap_or(text).parse::<f64>();
    match percent {
        Ok(percent) if percent > 0.0 && percent <= 100.0 => Ok(MaxOverhead(Some(percent))),
        _ => Err("write percent of all CPUs, more than 0 and at most 100, or off".to_owned()),
    }
}

pub(crate) fn bytes_per_second(text: &str) -> Result<u64, String> {
    let text = text.trim();
    if text.eq_ignore_ascii_case("off") {
        return Ok(0);
    }
    let bytes = parse_size::parse_size(text).map_err(|_| "write bytes a second as 500k, 64MB, 64MiB or 1e9, or off")?;
    if bytes == 0 { Err("write off for no limit".to_owned()) } else { Ok(bytes) }
}

pub(crate) fn interval(text: &str) -> Result<Duration, String> {
    duration(text, MIN_INTERVAL, MAX_INTERVAL)
}

fn recorded(text: &str) -> Result<Duration, String> {
    duration(text, MIN_INTERVAL, MAX_RECORDED)
}

fn rotated(text: &str) -> Result<u64, String> {
    let bytes = parse_size::parse_size(text.trim()).map_err(|_| "write bytes as 100M, 1G, 512Ki or 1e9")?;
    if bytes < MIN_ROTATED { Err("at least 16k: a snapshot or two take as much".to_owned()) } else { Ok(bytes) }
}

/// Shorter than this no Prometheus scrapes twice; longer is another question.
fn range(text: &str) -> Result<Duration, String> {
    duration(text, Duration::from_secs(10), Duration::from_secs(86_400))
}

/// <https://prometheus.io/docs/concepts/data_model/#metric-names-and-labels>
fn label(text: &str) -> Result<String, String> {
    let is_word = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if text.is_empty() || !is_word || text.starts_with(|first: char| first.is_ascii_digit()) {
        return Err("write the name of a label, such as instance or node".to_owned());
    }
    Ok(text.to_owned())
}

fn window(text: &str) -> Result<Duration, String> {
    duration(text, MIN_WINDOW, MAX_WINDOW)
}

/// `2s`, `500ms`, `1m 30s`, or a bare number of seconds.
fn duration(text: &str, min: Duration, max: Duration) -> Result<Duration, String> {
    let parsed = match text.trim().parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => humantime::parse_duration(text.trim()).ok(),
    };
    let parsed = parsed.ok_or("write it as 500ms, 2s or 1m")?;
    if parsed < min {
        return Err(format!("the minimum is {}", format::setting(min)));
    }
    if parsed > max {
        return Err(format!("the maximum is {}", format::setting(max)));
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use hbpf_host::collector::Options;

    use super::*;

    const GROUPS: &str = "there are llm-tls, llm-plain, tools, block, net, device, and all";

    fn top(arguments: &[&str]) -> Result<Top, clap::Error> {
        let all = ["hbpf", "top"].iter().chain(arguments);
        match Cli::try_parse_from(all)?.checked()?.command {
            Some(Command::Top(top)) => Ok(top),
            other => panic!("{other:?}"),
        }
    }

    fn snapshot(arguments: &[&str]) -> Result<SnapshotArgs, clap::Error> {
        let all = ["hbpf", "snapshot"].iter().chain(arguments);
        match Cli::try_parse_from(all)?.checked()?.command {
            Some(Command::Snapshot(snapshot)) => Ok(snapshot),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations() {
        for (text, millis) in [("2s", 2000), ("500ms", 500), ("2", 2000), ("0.25", 250), ("1m 30s", 90_000)] {
            assert_eq!(interval(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(interval("0"), Err("the minimum is 100ms".to_owned()));
        assert_eq!(interval("2h"), Err("the maximum is 1h".to_owned()));
        for nonsense in ["", "-1", "NaN", "inf", "soon", "1e300"] {
            assert!(interval(nonsense).is_err(), "{nonsense}");
        }
    }

    #[test]
    fn mistakes_are_told_in_one_clear_line() {
        let error = top(&["--interval", "0"]).unwrap_err().to_string();
        assert!(
            error.starts_with("error: invalid value '0' for '--interval <DURATION>': the minimum is 100ms"),
            "{error}"
        );
        let error = top(&["--groups", "llm-tls,gpu"]).unwrap_err().to_string();
        assert!(error.contains("invalid value 'gpu'") && error.contains(GROUPS), "{error}");
        assert!(top(&["-n", "3"]).is_err(), "a number of frames makes sense in batch mode only");
        assert!(top(&["--replay", "x", "--no-tls"]).is_err());
        assert!(snapshot(&["--count", "2"]).is_err());
        assert!(snapshot(&["--count", "2", "--duration", "1s"]).is_err());
        assert!(snapshot(&["--duration", "2s", "--interval", "1s"]).is_err());
        assert!(snapshot(&["--json", "--format", "text"]).is_err());
        assert!(snapshot(&["--pid", "0"]).is_err());
        let error = snapshot(&["--format", "-1"]).unwrap_err().to_string();
        assert!(error.starts_with("error: invalid value '-1' for '--format <FORMAT>'"), "{error}");
        let error = snapshot(&["--output", "--json"]).unwrap_err().to_string();
        assert!(error.starts_with("error: a value is required for '--output <FILE>'"), "{error}");
    }

    #[test]
    fn negative_values_are_told_by_the_option_that_they_were_given_to() {
        const HOW_LONG: &str = "write it as 500ms, 2s or 1m";
        const HOW_MANY: &str = "write a whole number, 1 or more";
        const PERCENT: &str = "write percent of all CPUs, more than 0 and at most 100, or off";
        const BYTES: &str = "write bytes a second as 500k, 64MB, 64MiB or 1e9, or off";
        for (command, option, value, name, advice) in [
            ("top", "--interval", "-1s", "--interval <DURATION>", HOW_LONG),
            ("top", "-d", "-1", "--interval <DURATION>", HOW_LONG),
            ("top", "--delay", "-0.5", "--interval <DURATION>", HOW_LONG),
            ("top", "--window", "-5s", "--window <DURATION>", HOW_LONG),
            ("top", "-n", "-3", "--count <N>", HOW_MANY),
            ("top", "--count", "0", "--count <N>", HOW_MANY),
            ("top", "--max-overhead", "-1", "--max-overhead <PERCENT>", PERCENT),
            ("top", "--max-bytes-per-second", "-64MiB", "--max-bytes-per-second <BYTES>", BYTES),
            ("snapshot", "--duration", "-2s", "--duration <DURATION>", HOW_LONG),
            ("snapshot", "--interval", "-2s", "--interval <DURATION>", HOW_LONG),
            ("snapshot", "--count", "-1", "--count <N>", HOW_MANY),
            ("snapshot", "--pid", "-7", "--pid <PID>", "write the number of a process"),
            ("snapshot", "-p", "-7", "--pid <PID>", "write the number of a process"),
            ("top", "--groups", "-1", "--groups <GROUPS>", GROUPS),
            // An option where a value is missing.
            ("snapshot", "--interval", "--json", "--interval <DURATION>", HOW_LONG),
        ] {
            let error = Cli::try_parse_from(["hbpf", command, option, value]).unwrap_err().to_string();
            let line = error.lines().next().unwrap_or_default();
            assert_eq!(line, format!("error: invalid value '{value}' for '{name}': {advice}"));
        }
    }

    #[test]
    fn probe_groups() {
        assert_eq!(top(&[]).unwrap().probes.chosen(), Group::DEFAULT);
        assert_eq!(top(&["--no-tls"]).unwrap().probes.chosen(), [Group::LlmPlain, Group::Tools]);
        assert_eq!(top(&["--groups", "llm-tls,llm-tls"]).unwrap().probes.chosen(), [Group::LlmTls]);
        assert_eq!(top(&["--no-tls", "--no-plain"]).unwrap().probes.chosen(), [Group::Tools]);
        let but_one = snapshot(&["--groups", "all", "--no-tls"]).unwrap().probes.chosen();
        assert_eq!(but_one, [Group::LlmPlain, Group::Tools, Group::Block, Group::Net, Group::Device]);
        assert_eq!(top(&["--groups", "llm-plain,net", "--no-tls"]).unwrap().probes.chosen().len(), 2);
    }

    #[test]
    fn a_group_is_not_named_and_left_out_at_once() {
        for (groups, option) in
            [("llm-tls", "--no-tls"), ("llm-tls,llm-plain", "--no-plain"), ("all,llm-tls", "--no-tls")]
        {
            let error = top(&["--groups", groups, option]).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            let error = snapshot(&["--groups", groups, option]).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("error: the argument '{option}' cannot be used with '--groups llm-")),
                "{error}"
            );
            assert!(error.contains("Usage: hbpf snapshot"), "{error}");
        }
    }

    #[test]
    fn what_observing_may_cost() {
        let defaults = top(&[]).unwrap().bounds;
        assert_eq!(defaults.max_overhead, MaxOverhead(Some(Options::MAX_OVERHEAD)));
        assert_eq!(defaults.max_bytes_per_second, Options::MAX_BYTES_PER_SECOND);
        let chosen = snapshot(&["--max-overhead", "0.5%", "--max-bytes-per-second", "512KiB"]).unwrap().bounds;
        assert_eq!((chosen.max_overhead, chosen.max_bytes_per_second), (MaxOverhead(Some(0.5)), 512 * 1024));
        let none = top(&["--max-overhead", "off", "--max-bytes-per-second", "OFF"]).unwrap().bounds;
        assert_eq!((none.max_overhead, none.max_bytes_per_second), (MaxOverhead(None), 0));
        for wrong in ["0", "-1", "101", "NaN", "inf", "x", ""] {
            let error = top(&[&format!("--max-overhead={wrong}")]).unwrap_err().to_string();
            assert!(error.contains("more than 0 and at most 100, or off"), "{wrong}: {error}");
        }
        assert!(top(&["--replay", "x", "--max-overhead", "1"]).is_err());
    }

    #[test]
    fn bytes_as_people_write_them() {
        for (text, bytes) in [
            ("4096", 4096),
            ("500k", 500_000),
            ("500K", 500_000),
            ("64M", 64_000_000),
            ("64MB", 64_000_000),
            ("64 mb", 64_000_000),
            ("1.5G", 1_500_000_000),
            ("1e9", 1_000_000_000),
            ("2.5e6", 2_500_000),
            ("512Ki", 512 << 10),
            ("64MiB", 64 << 20),
            ("64mib", 64 << 20),
            ("1GiB", 1 << 30),
            ("2TB", 2_000_000_000_000),
        ] {
            assert_eq!(bytes_per_second(text), Ok(bytes), "{text}");
        }
        assert_eq!(bytes_per_second("0"), Err("write off for no limit".to_owned()));
        for wrong in ["-1", "M", "MiB", "20000000000G", "1e99", "NaN", "inf", "64Mbit", "64MB/s", "1,5M", "0x10", ""] {
            let error = bytes_per_second(wrong).expect_err(wrong);
            assert!(error.starts_with("write bytes a second as ") && error.lines().count() == 1, "{wrong}: {error}");
        }
    }

    #[test]
    fn snapshot_defaults() {
        let arguments = snapshot(&[]).unwrap();
        assert_eq!((arguments.format(), arguments.duration), (Format::Text, Duration::from_secs(2)));
        assert_eq!(snapshot(&["--json"]).unwrap().format(), Format::Json);
        assert_eq!(snapshot(&["--pid", "7", "-p", "9"]).unwrap().pids, [7, 9]);
    }
}
