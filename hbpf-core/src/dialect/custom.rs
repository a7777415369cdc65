//! APIs that a user has described: who serves at which hosts, and where in their bodies is what.

use std::sync::OnceLock;

use super::definition::{Count, DEFAULT, Definition, Estimate, Paths, RequestSlot, Slot, totals};
use super::{anthropic, definition};
use crate::exchange::{Api, Dialect};
use crate::json::{PathSet, Want};
use crate::label::Label;

/// Longest end of a path that the kernel side looks for, in bytes.
pub const MAX_PATH_BYTES: usize = 64;

/// Most that a user may describe: each request is compared with all of them.
pub const MAX_CUSTOM: usize = 64;

/// How the bodies of an API are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CustomBodies {
    /// As those of a dialect that is built in.
    Like(Dialect),
    /// By the places of what matters.
    At(Box<CustomPlaces>),
}

/// Where in bodies is what: paths such as `usage.input` or `choices[].text`. What is left out is not known of such calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CustomPlaces {
    /// The model, in requests.
    pub request_model: Option<String>,
    /// Whether the answer shall be streamed, in requests.
    pub request_stream: Option<String>,
    /// The model, in answers.
    pub response_model: Option<String>,
    /// The answer's id.
    pub id: Option<String>,
    /// Why generation has ended.
    pub finish_reason: Option<String>,
    /// An error, as an object or text.
    pub error: Option<String>,
    /// Its type.
    pub error_type: Option<String>,
    /// Prompt tokens.
    pub input_tokens: Option<String>,
    /// Generated tokens.
    pub output_tokens: Option<String>,
    /// Prompt tokens that were read from a cache.
    pub cached_input_tokens: Option<String>,
    /// Prompt tokens that were written to one.
    pub cache_creation_input_tokens: Option<String>,
    /// Generated tokens that were reasoning.
    pub reasoning_tokens: Option<String>,
    /// US dollars that it has cost.
    pub cost_usd: Option<String>,
    /// What events of a stream add.
    pub output: Vec<String>,
    /// The same, of reasoning.
    pub reasoning: Vec<String>,
    /// Prompt tokens leave out what came from or went to a cache.
    pub input_excludes_cached: bool,
    /// Streams are one document a line, not server-sent events.
    pub streams_lines: bool,
    /// Answers are streamed unless the request says otherwise.
    pub stream_default: bool,
    /// An event holds several tokens, which are estimated from its bytes.
    pub events_hold_several: bool,
}

/// An API that a user has described, or only who serves at a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomApi {
    /// Who serves.
    pub provider: String,
    /// Hosts: names in lower case, or what they end in, where that begins with a dot. None stands for any.
    pub hosts: Vec<String>,
    /// Ends of paths, which begin with `/` or `:`. With none, this only names who serves at the hosts.
    pub paths: Vec<String>,
    /// What kind of calls they are.
    pub api: Api,
    /// How bodies are read.
    pub bodies: CustomBodies,
}

/// An API that is looked for.
pub(super) struct Custom {
    pub(super) provider: &'static str,
    hosts: Vec<String>,
    paths: &'static [&'static str],
    pub(super) api: Api,
    pub(super) definition: &'static Definition,
}

static CUSTOM: OnceLock<Vec<Custom>> = OnceLock::new();

/// Takes over what a user has described, for as long as this process runs; once, before the first request is judged.
///
/// # Errors
///
/// Something has been taken over before.
pub fn install(apis: Vec<CustomApi>) -> Result<(), AlreadyInstalled> {
    CUSTOM.set(apis.into_iter().map(Custom::new).collect()).map_err(|_| AlreadyInstalled)
}

/// What a user has described was taken over before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("user-defined APIs were taken over before")]
pub struct AlreadyInstalled;

/// What kind of calls those of a dialect usually are.
pub fn usual_api(dialect: Dialect) -> Api {
    definition(dialect).targets.first().map_or(Api::Chat, |target| target.api)
}

/// Whether this can be the path of something in a document.
pub fn is_path(path: &str) -> bool {
    let is_step = |step: &str| {
        let name = step.trim_end_matches("[]");
        (!name.is_empty() || !step.is_empty()) && !name.contains(['[', ']', '$', '"', '\\'])
    };
    path.len() <= MAX_PATH_BYTES && path.split('.').all(is_step)
}

/// The API that serves this request, by a user's word. The host is only asked for where a user has described any.
pub(super) fn find(host: impl FnOnce() -> Option<Label>, path: &[u8]) -> Option<&'static Custom> {
    let custom = CUSTOM.get().filter(|custom| !custom.is_empty())?;
    let host = host().map(|host| host.as_str().to_ascii_lowercase());
    let at_host = |api: &&Custom| api.hosts.is_empty() || host.as_deref().is_some_and(|host| api.serves_at(host));
    let with_end = |api: &'static Custom| {
        let ends = api.paths.iter().filter(|end| path.ends_with(end.as_bytes()));
        Some((ends.map(|end| end.len()).max()?, api))
    };
    custom.iter().filter(at_host).filter_map(with_end).max_by_key(|(end, _)| *end).map(|(_, api)| api)
}

/// Who serves at this host, whose name is in lower case, by a user's word.
pub(super) fn provider_of_host(host: &str) -> Option<&'static str> {
    CUSTOM.get()?.iter().find(|api| api.serves_at(host)).map(|api| api.provider)
}

/// Whether a user has given this name to who serves: what an answer says of it does not hold then.
pub fn is_named_by_user(provider: &str) -> bool {
    CUSTOM.get().is_some_and(|custom| custom.iter().any(|api| api.provider == provider))
}

/// Ends of paths that the kernel side shall look for.
pub(super) fn paths() -> impl Iterator<Item = &'static str> {
    CUSTOM.get().into_iter().flatten().flat_map(|api| api.paths.iter().copied())
}

impl Custom {
    /// What is leaked here is there once for each API that a user has described, and for good.
    fn new(api: CustomApi) -> Self {
        let paths = api.paths.into_iter().map(leaked).collect::<Vec<_>>();
        Self {
            provider: leaked(api.provider),
            hosts: api.hosts,
            paths: Vec::leak(paths),
            api: api.api,
            definition: match api.bodies {
                CustomBodies::Like(dialect) => definition(dialect),
                CustomBodies::At(places) => Box::leak(Box::new(places.definition())),
            },
        }
    }

    fn serves_at(&self, host: &str) -> bool {
        self.hosts.iter().any(|name| if name.starts_with('.') { host.ends_with(name) } else { host == name })
    }
}

fn leaked(text: String) -> &'static str {
    String::leak(text)
}

impl CustomPlaces {
    fn definition(self) -> Definition {
        let request = [(self.request_model, RequestSlot::Model), (self.request_stream, RequestSlot::Stream)];
        let mut scalars = Vec::new();
        for (path, slot) in [
            (self.response_model, Slot::Model),
            (self.id, Slot::ResponseId),
            (self.finish_reason, Slot::FinishReason),
            (self.error_type, Slot::ErrorType),
            (self.input_tokens, Slot::Count(Count::Input)),
            (self.output_tokens, Slot::Count(Count::Output)),
            (self.cached_input_tokens, Slot::Count(Count::CacheRead)),
            (self.cache_creation_input_tokens, Slot::Count(Count::CacheWrite)),
            (self.reasoning_tokens, Slot::Count(Count::Reasoning)),
            (self.cost_usd, Slot::Dollars),
        ] {
            scalars.extend(path.map(|path| (leaked(path), Want::Scalar, slot)));
        }
        let lengths = [(self.output, Slot::Visible), (self.reasoning, Slot::Reasoning)];
        let lengths = lengths.into_iter().flat_map(|(paths, slot)| paths.into_iter().map(move |path| (path, slot)));
        let lengths = lengths.chain(self.error.map(|path| (path, Slot::Error)));
        scalars.extend(lengths.map(|(path, slot)| (leaked(path), Want::Length, slot)));
        let request: Vec<_> =
            request.into_iter().filter_map(|(path, slot)| Some((leaked(path?), Want::Scalar, slot))).collect();
        Definition {
            dialect: Dialect::Custom,
            request: Paths::Ready(Box::leak(Box::new(PathSet::new(&request)))),
            response: Paths::Ready(Box::leak(Box::new(PathSet::new(&scalars)))),
            stream_default: self.stream_default,
            streams_lines: self.streams_lines,
            estimate: if self.events_hold_several { Estimate::FromBytes } else { Estimate::PerChoice },
            usage: if self.input_excludes_cached { anthropic::usage } else { totals },
            // What it answers besides is not known.
            may_be_opaque: true,
            ..DEFAULT
        }
    }
}
