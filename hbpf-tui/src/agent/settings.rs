//! What an agent is told: by options, by the environment, by a file, in this order.

use std::ffi::OsString;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Command};
use toml::{Table, Value};

/// What names of variables begin with: `--token-file` is HBPF_AGENT_TOKEN_FILE.
const VARIABLE: &str = "HBPF_AGENT_";

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl Address {
    /// Reads `unix:PATH`, `ADDRESS:PORT`, or `:PORT` for all addresses.
    ///
    /// # Errors
    ///
    /// Says what an address is, if this is none.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.starts_with('/') {
                Ok(Self::Unix(path.into()))
            } else {
                Err("write unix:/a/path".to_owned())
            };
        }
        let text = if text.starts_with(':') { format!("[::]{text}") } else { text.to_owned() };
        let mut addresses =
            text.to_socket_addrs().map_err(|_| "write unix:/a/path, ADDRESS:PORT or :PORT".to_owned())?;
        addresses.next().map(Self::Tcp).ok_or_else(|| "no address has that name".to_owned())
    }
}

/// The arguments with what the environment and the file say besides, for the parser to take as if all had been written there: so
/// that whatever can be told by one can be told by the others, and mistakes are found alike.
///
/// # Errors
///
/// If the file has a key that is none.
pub(super) fn complete(
    arguments: &[OsString],
    command: &Command,
    given: &ArgMatches,
    file: Option<&Table>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Vec<OsString>> {
    let mut all = arguments.to_vec();
    let mut known = Vec::new();
    for argument in command.get_arguments().filter(|argument| !argument.is_global_set()) {
        let Some(long) = argument.get_long().filter(|long| !matches!(*long, "help" | "version")) else { continue };
        let key = long.replace('-', "_");
        let is_given = given.value_source(argument.get_id().as_str()) == Some(ValueSource::CommandLine);
        let value = file.and_then(|file| file.get(&key));
        known.push(key.clone());
        if is_given {
            continue;
        }
        let is_flag = matches!(argument.get_action(), ArgAction::SetTrue);
        let from_environment = variable(&format!("{VARIABLE}{}", key.to_ascii_uppercase()));
        let values: Vec<OsString> = match (from_environment, value) {
            (Some(text), _) => vec![text],
            (None, Some(value)) => {
                texts(value).with_context(|| format!("[agent] {key}"))?.into_iter().map(Into::into).collect()
            }
            (None, None) => continue,
        };
        for value in values {
            match (is_flag, value.to_str()) {
                (false, _) => {
                    let mut option = OsString::from(format!("--{long}="));
                    option.push(value);
                    all.push(option);
                }
                (true, Some("true" | "1")) => all.push(format!("--{long}").into()),
                (true, Some("false" | "0" | "")) => {}
                (true, _) => bail!("{key} is true or false, not {value:?}"),
            }
        }
    }
    if let Some(unknown) = file.into_iter().flatten().map(|(key, _)| key).find(|key| !known.contains(key)) {
        bail!("[agent] has no key {unknown:?}; there are {}", known.join(", "));
    }
    Ok(all)
}

/// A value as options are written; of a list, each.
fn texts(value: &Value) -> Result<Vec<String>> {
    let text = |value: &Value| {
        Ok(match value {
            Value::String(text) => text.clone(),
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Boolean(is) => is.to_string(),
            Value::Array(_) | Value::Table(_) | Value::Datetime(_) => {
                bail!("write a text, a number, or a list of them")
            }
        })
    };
    match value {
        Value::Array(values) => {
            ensure!(!values.is_empty(), "write at least one");
            values.iter().map(text).collect()
        }
        value => Ok(vec![text(value)?]),
    }
}
