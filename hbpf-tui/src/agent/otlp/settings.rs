//! What OpenTelemetry's environment says.
//!
//! <https://opentelemetry.io/docs/specs/otel/protocol/exporter/>,
//! <https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hyper::Uri;

/// Ports by convention.
const GRPC: &str = "http://localhost:4317";
const HTTP: &str = "http://localhost:4318";

/// Names that this process goes by.
const SERVICE: &str = "hbpf";

/// How it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Grpc,
    Http,
}

/// Since when counts count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Temporality {
    /// Since each began.
    Cumulative,
    /// Since the last export.
    Delta,
}

/// Metrics or spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    Metrics,
    Traces,
}

impl Signal {
    /// In names of variables.
    fn variable(self) -> &'static str {
        match self {
            Self::Metrics => "METRICS",
            Self::Traces => "TRACES",
        }
    }

    /// In URLs.
    fn path(self) -> &'static str {
        match self {
            Self::Metrics => "v1/metrics",
            Self::Traces => "v1/traces",
        }
    }
}

/// Where a signal goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) protocol: Protocol,
    /// With its path, for HTTP.
    pub(super) uri: Uri,
    pub(super) headers: Vec<(String, String)>,
    pub(super) timeout: Duration,
    pub(super) gzip: bool,
    /// Files in PEM.
    pub(super) certificate: Option<PathBuf>,
    pub(super) client: Option<(PathBuf, PathBuf)>,
}

/// All of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    pub(super) metrics: Option<Target>,
    pub(super) traces: Option<Target>,
    pub(super) interval: Duration,
    pub(super) temporality: Temporality,
    /// Base-2 exponential histograms rather than those with fixed bounds.
    pub(super) exponential: bool,
    pub(super) resource: Vec<(String, String)>,
    pub(super) spans: SpanSettings,
}

/// How spans are gathered.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SpanSettings {
    /// Most that wait.
    pub(super) queue: usize,
    /// Most of one export.
    pub(super) batch: usize,
    /// Time between exports.
    pub(super) delay: Duration,
    /// The part of traces that is sent.
    pub(super) ratio: f64,
}

/// What options say of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) endpoint: Option<String>,
    pub(crate) protocol: Option<String>,
    pub(crate) spans: bool,
}

impl Settings {
    /// Reads the environment. Nothing is sent unless an endpoint is named, or an exporter is asked for.
    ///
    /// # Errors
    ///
    /// Says which variable is wrong, and how.
    pub(crate) fn read(options: &Options, variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let get = |name: &str| variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let is_off = get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let endpoint = options.endpoint.clone().or_else(|| get("OTEL_EXPORTER_OTLP_ENDPOINT"));
        let protocol = options.protocol.clone();
        let target = |signal: Signal, is_usual: bool| {
            let of = signal.variable();
            let wanted = match get(&format!("OTEL_{of}_EXPORTER")).as_deref() {
                Some("otlp") => true,
                Some("none") => false,
                Some(other) => bail!("OTEL_{of}_EXPORTER is {other:?}; hbpf has otlp and none"),
                None => is_usual && (endpoint.is_some() || get(&format!("OTEL_EXPORTER_OTLP_{of}_ENDPOINT")).is_some()),
            };
            if is_off || !wanted {
                return Ok(None);
            }
            target(signal, (endpoint.as_deref(), options.endpoint.is_some()), protocol.as_deref(), &get).map(Some)
        };
        let temporality = match get("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE").as_deref() {
            None => Temporality::Cumulative,
            Some(value) if value.eq_ignore_ascii_case("cumulative") => Temporality::Cumulative,
            Some(value) if value.eq_ignore_ascii_case("delta") || value.eq_ignore_ascii_case("lowmemory") => {
                Temporality::Delta
            }
            Some(other) => bail!(
                "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE is {other:?}; there are cumulative, delta and lowmemory"
            ),
        };
        let aggregation = get("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION");
        let exponential = match aggregation.as_deref() {
            None | Some("explicit_bucket_histogram") => false,
            Some("base2_exponential_bucket_histogram") => true,
            Some(other) => bail!(
                "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION is {other:?}; there are explicit_bucket_histogram and \
                 base2_exponential_bucket_histogram"
            ),
        };
        Ok(Self {
            metrics: target(Signal::Metrics, true)?,
            traces: target(Signal::Traces, options.spans)?,
            interval: milliseconds("OTEL_METRIC_EXPORT_INTERVAL", 60_000, &get)?,
            temporality,
            exponential,
            resource: resource(&get)?,
            spans: SpanSettings {
                queue: count("OTEL_BSP_MAX_QUEUE_SIZE", 2048, &get)?,
                batch: count("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512, &get)?,
                delay: milliseconds("OTEL_BSP_SCHEDULE_DELAY", 5_000, &get)?,
                ratio: ratio(&get)?,
            },
        })
    }
}

fn target(
    signal: Signal,
    (endpoint, is_option): (Option<&str>, bool),
    protocol: Option<&str>,
    get: &impl Fn(&str) -> Option<String>,
) -> Result<Target> {
    let of = signal.variable();
    // What is said of one signal holds over what is said of all.
    let either = |name: &str| {
        get(&format!("OTEL_EXPORTER_OTLP_{of}_{name}")).or_else(|| get(&format!("OTEL_EXPORTER_OTLP_{name}")))
    };
    let protocol = match protocol.map(str::to_owned).or_else(|| either("PROTOCOL")).as_deref() {
        Some("grpc") => Protocol::Grpc,
        None | Some("http/protobuf") => Protocol::Http,
        Some(other) => bail!("OTEL_EXPORTER_OTLP_PROTOCOL is {other:?}; hbpf has grpc and http/protobuf"),
    };
    let own = get(&format!("OTEL_EXPORTER_OTLP_{of}_ENDPOINT")).filter(|_| !is_option);
    let text = match (&own, endpoint, protocol) {
        // As it is.
        (Some(own), ..) => own.clone(),
        (None, Some(endpoint), Protocol::Http) => format!("{}/{}", endpoint.trim_end_matches('/'), signal.path()),
        (None, Some(endpoint), Protocol::Grpc) => endpoint.to_owned(),
        (None, None, Protocol::Http) => format!("{HTTP}/{}", signal.path()),
        (None, None, Protocol::Grpc) => GRPC.to_owned(),
    };
    let is_insecure = either("INSECURE").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let text = match protocol {
        // Only here may the scheme be left out.
        Protocol::Grpc if !text.contains("://") => format!("{}://{text}", if is_insecure { "http" } else { "https" }),
        _ => text,
    };
    // Who writes a password there shall not find it in a log.
    let shown = text.rsplit_once('@').map_or(text.as_str(), |(_, host)| host);
    let uri: Uri = text.parse().ok().filter(|uri: &Uri| uri.host().is_some()).with_context(|| {
        format!(
            "{shown:?} is no endpoint of a collector, such as http://collector:4318 (http/protobuf) or :4317 (grpc)"
        )
    })?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        bail!("{shown:?} begins with neither http:// nor https://");
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        bail!("a name and a password for {shown:?} go into OTEL_EXPORTER_OTLP_HEADERS, as `authorization=Basic ...`");
    }
    let gzip = match either("COMPRESSION").as_deref() {
        None | Some("none") => false,
        Some("gzip") => true,
        Some(other) => bail!("OTEL_EXPORTER_OTLP_COMPRESSION is {other:?}; there are gzip and none"),
    };
    let client = match (either("CLIENT_CERTIFICATE"), either("CLIENT_KEY")) {
        (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
        (None, None) => None,
        _ => bail!("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and _CLIENT_KEY belong together"),
    };
    let timeout = match either("TIMEOUT") {
        None => 10_000,
        Some(text) => {
            let milliseconds = text.parse().ok().filter(|milliseconds| *milliseconds > 0);
            milliseconds.with_context(|| {
                format!("OTEL_EXPORTER_OTLP_TIMEOUT is {text:?}, which is no number of milliseconds")
            })?
        }
    };
    Ok(Target {
        protocol,
        uri,
        headers: either("HEADERS")
            .map(|text| pairs(&text, "OTEL_EXPORTER_OTLP_HEADERS"))
            .transpose()?
            .unwrap_or_default(),
        timeout: Duration::from_millis(timeout),
        gzip,
        certificate: either("CERTIFICATE").map(PathBuf::from),
        client,
    })
}

/// `name=value,name=value`, percent-encoded.
fn pairs(text: &str, variable: &str) -> Result<Vec<(String, String)>> {
    let decoded = |text: &str| percent_encoding::percent_decode_str(text.trim()).decode_utf8_lossy().into_owned();
    let parts = text.split(',').filter(|part| !part.trim().is_empty());
    parts
        .map(|part| {
            // Not its text, which may be a secret.
            let (name, value) = part.split_once('=').with_context(|| format!("{variable} is no list of name=value"))?;
            Ok((decoded(name), decoded(value)))
        })
        .collect()
}

fn resource(get: &impl Fn(&str) -> Option<String>) -> Result<Vec<(String, String)>> {
    let mut pairs = match get("OTEL_RESOURCE_ATTRIBUTES") {
        Some(text) => pairs(&text, "OTEL_RESOURCE_ATTRIBUTES")?,
        None => Vec::new(),
    };
    let own = get("OTEL_SERVICE_NAME");
    if own.is_some() || !pairs.iter().any(|(name, _)| name == "service.name") {
        pairs.retain(|(name, _)| name != "service.name");
        pairs.insert(0, ("service.name".to_owned(), own.unwrap_or_else(|| SERVICE.to_owned())));
    }
    Ok(pairs)
}

fn milliseconds(name: &str, usual: u64, get: &impl Fn(&str) -> Option<String>) -> Result<Duration> {
    let Some(text) = get(name) else { return Ok(Duration::from_millis(usual)) };
    let milliseconds = text.parse().ok().filter(|milliseconds| *milliseconds > 0);
    milliseconds
        .map(Duration::from_millis)
        .with_context(|| format!("{name} is {text:?}, which is no number of milliseconds"))
}

fn count(name: &str, usual: usize, get: &impl Fn(&str) -> Option<String>) -> Result<usize> {
    let Some(text) = get(name) else { return Ok(usual) };
    text.parse()
        .ok()
        .filter(|count| *count > 0)
        .with_context(|| format!("{name} is {text:?}, which is no number above 0"))
}

/// What part of traces is sampled. Whether others have sampled a trace is in a header that is not read.
fn ratio(get: &impl Fn(&str) -> Option<String>) -> Result<f64> {
    let argument = get("OTEL_TRACES_SAMPLER_ARG");
    match get("OTEL_TRACES_SAMPLER").as_deref() {
        None | Some("always_on" | "parentbased_always_on") => Ok(1.0),
        Some("always_off" | "parentbased_always_off") => Ok(0.0),
        Some("traceidratio" | "parentbased_traceidratio") => {
            let Some(text) = argument else { return Ok(1.0) };
            let ratio = text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
            ratio.with_context(|| format!("OTEL_TRACES_SAMPLER_ARG is {text:?}, which is not between 0 and 1"))
        }
        Some(other) => bail!("OTEL_TRACES_SAMPLER is {other:?}; hbpf has always_on, always_off and traceidratio"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(options: &Options, variables: &[(&str, &str)]) -> Result<Settings> {
        let find = |name: &str| variables.iter().find(|(of, _)| *of == name).map(|(_, value)| (*value).to_owned());
        Settings::read(options, find)
    }

    fn uri(settings: &Option<Target>) -> Option<String> {
        settings.as_ref().map(|target| target.uri.to_string())
    }

    #[test]
    fn nothing_is_sent_unless_it_is_asked_for() {
        let none = Options::default();
        let quiet = read(&none, &[]).unwrap();
        assert_eq!((quiet.metrics, quiet.traces), (None, None));
        let metrics = read(&none, &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/base/")]).unwrap();
        assert_eq!((uri(&metrics.metrics), metrics.traces), (Some("http://c:4318/base/v1/metrics".into()), None));
        let asked = read(&none, &[("OTEL_METRICS_EXPORTER", "otlp"), ("OTEL_TRACES_EXPORTER", "otlp")]).unwrap();
        assert_eq!(uri(&asked.metrics).as_deref(), Some("http://localhost:4318/v1/metrics"));
        assert_eq!(uri(&asked.traces).as_deref(), Some("http://localhost:4318/v1/traces"));
        let options = Options { endpoint: Some("http://c:4317".into()), protocol: Some("grpc".into()), spans: true };
        let both = read(&options, &[("OTEL_METRICS_EXPORTER", "none")]).unwrap();
        assert_eq!((both.metrics, uri(&both.traces).as_deref()), (None, Some("http://c:4317/")));
        let off = read(&options, &[("OTEL_SDK_DISABLED", "true")]).unwrap();
        assert_eq!((off.metrics, off.traces), (None, None));
    }

    #[test]
    fn what_is_said_of_one_signal_holds_over_what_is_said_of_all() {
        let settings = read(
            &Options::default(),
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://all.example"),
                ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "collector:4317"),
                ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "grpc"),
                ("OTEL_EXPORTER_OTLP_METRICS_INSECURE", "true"),
                ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20x, tenant = a,"),
                ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
                ("OTEL_EXPORTER_OTLP_TIMEOUT", "1500"),
                ("OTEL_METRIC_EXPORT_INTERVAL", "5000"),
                ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "Delta"),
                ("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "base2_exponential_bucket_histogram"),
                ("OTEL_RESOURCE_ATTRIBUTES", "k8s.node.name=n%2C1,service.name=other"),
                ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
                ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
            ],
        )
        .unwrap();
        let target = settings.metrics.unwrap();
        assert_eq!((target.protocol, target.uri.to_string()), (Protocol::Grpc, "http://collector:4317/".to_owned()));
        assert_eq!(target.headers, [("authorization".into(), "Bearer x".into()), ("tenant".into(), "a".into())]);
        assert_eq!((target.gzip, target.timeout), (true, Duration::from_millis(1500)));
        assert_eq!((settings.interval, settings.temporality), (Duration::from_secs(5), Temporality::Delta));
        assert!(settings.exponential && settings.spans.ratio == 0.25);
        assert_eq!(
            settings.resource,
            [("k8s.node.name".into(), "n,1".into()), ("service.name".into(), "other".into())]
        );
    }

    #[test]
    fn mistakes_are_named_without_what_may_be_secret() {
        let wrong = |variables: &[(&str, &str)]| {
            let with = [variables, &[("OTEL_METRICS_EXPORTER", "otlp")]].concat();
            read(&Options::default(), &with).unwrap_err().to_string()
        };
        assert!(wrong(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")]).contains("hbpf has grpc and http/protobuf"));
        assert!(wrong(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://c")]).contains("neither http:// nor https://"));
        assert!(wrong(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "no where")]).contains("no endpoint"));
        for endpoint in
            ["http://me:SECRET@collector:4318", "https://SECRET@", "ftp://me:SECRET@collector", "SECRET@collector"]
        {
            let said = wrong(&[("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)]);
            assert!(!said.contains("SECRET"), "{said}");
        }
        let headers = wrong(&[("OTEL_EXPORTER_OTLP_HEADERS", "sesame")]);
        assert!(headers.contains("no list of name=value") && !headers.contains("sesame"), "{headers}");
        assert!(wrong(&[("OTEL_METRIC_EXPORT_INTERVAL", "0")]).contains("OTEL_METRIC_EXPORT_INTERVAL"));
        assert!(wrong(&[("OTEL_EXPORTER_OTLP_CLIENT_KEY", "k")]).contains("belong together"));
        assert!(
            wrong(&[("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "2")])
                .contains("between 0 and 1")
        );
    }
}
