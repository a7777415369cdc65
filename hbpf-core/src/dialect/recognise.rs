//! Whether a request is a model call, and in which dialect.

use std::sync::LazyLock;

use super::DEFINITIONS;
use super::definition::{Definition, Proof, Target};
use super::headers::host;
use super::provider::{provider, provider_of_host};
use super::shape::Shape;
use super::{bedrock, custom, definition, grpc, mcp};
use crate::body::Coding;
use crate::exchange::{Api, Dialect};
use crate::http1::RequestHead;
use crate::label::Label;

/// A beginning of a body that is this long is always enough for a decision. What nothing has recognised does not leave
/// the kernel beyond its first KiB, head included.
pub const JUDGE_BYTES: usize = 1024;

/// What a request's head, and the beginning of its body, say.
#[derive(Clone, Debug, PartialEq)]
pub enum Judgement {
    /// It is a model call.
    ModelCall(Recognised),
    /// It asks to go on as a WebSocket, over which models are called.
    ModelSocket(Recognised),
    /// It is something else.
    NotModel,
    /// More of the body must be seen.
    NeedBody,
}

/// How much of a request's body there is to judge by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Its beginning; more may come.
    Beginning,
    /// Its beginning, and no more of it will be seen before a decision.
    Cut,
    /// All of it.
    Whole,
}

/// A model call.
#[derive(Clone, Debug, PartialEq)]
pub struct Recognised {
    pub(super) definition: &'static Definition,
    /// How its bodies are read.
    pub dialect: Dialect,
    /// What kind of call it is.
    pub api: Api,
    /// Who serves: by the host's name or the dialect; `unknown` where neither tells.
    pub provider: Label,
    /// The model, where the path names it, or the query of a WebSocket's target.
    pub model: Option<Label>,
    /// Whether the answer is streamed, where the path says so.
    pub stream: Option<bool>,
    /// The path ends in one of [`target_patterns`], which the kernel side knows. If not, the path should be learned.
    pub known_target: bool,
}

impl Recognised {
    /// What is called in a way that has no paths.
    pub(super) fn at(definition: &'static Definition, api: Api, provider: &str) -> Self {
        let (dialect, provider) = (definition.dialect, Label::new(provider));
        Self { definition, dialect, api, provider, model: None, stream: Some(false), known_target: true }
    }
}

/// Ends of request paths at which model calls are served, whatever stands before them.
///
/// They are as short as vendors' prefixes demand, and no shorter: `/messages` or `/chat` alone would have half the web
/// copied. Those that other services use too (`/completions`, `/api/chat`) are confirmed by the body. A user's are among them,
/// once they are [installed](super::install).
pub fn target_patterns() -> &'static [&'static str] {
    static PATTERNS: LazyLock<Vec<&'static str>> =
        LazyLock::new(|| targets().map(|(_, t)| t.suffix).chain(custom::paths()).collect());
    &PATTERNS
}

fn targets() -> impl Iterator<Item = (&'static Definition, &'static Target)> {
    DEFINITIONS.iter().flat_map(|definition| definition.targets.iter().map(move |target| (*definition, target)))
}

/// Ends of paths where bodies look like a model call's and no model answers.
const NO_CALLS: [&[u8]; 7] = [
    b"/count_tokens",
    b"/count-tokens:rawPredict",
    b"/input_tokens",
    b"/tokenize",
    b"/detokenize",
    b"/apply-template",
    b"/moderations",
];

/// Judges a request by its path, its headers, and as much of its (decoded) body as is there.
///
/// `port` is the serving end's. Only a body of which more may come needs more.
pub fn judge(head: &RequestHead<'_>, port: Option<u16>, body_prefix: &[u8], extent: Extent) -> Judgement {
    // Reading a stored answer or a model list is no call.
    match head.method {
        "POST" => {}
        "GET" if head.asks_for_websocket() => return judge_socket(head, port),
        _ => return Judgement::NotModel,
    }
    let path = head.path();
    let trimmed = path.strip_suffix(b"/").unwrap_or(path);
    if NO_CALLS.iter().any(|end| trimmed.ends_with(end)) {
        return Judgement::NotModel;
    }
    let request = Request {
        head,
        path,
        trimmed,
        body: Body { prefix: body_prefix, extent, coding: head.content_coding(), is_form: is_form(head) },
        deployment: azure_deployment(path),
        says_anthropic: head.header("anthropic-version").is_some(),
    };
    if let Some(custom) = custom::find(|| host(head), trimmed) {
        return Judgement::ModelCall(Recognised {
            definition: custom.definition,
            dialect: custom.definition.dialect,
            api: custom.api,
            stream: None,
            provider: Label::new(custom.provider),
            model: request.deployment.map(Label::from_bytes),
            known_target: trimmed.len() == path.len(),
        });
    }
    let (found, target) = match request.by_target() {
        Some(Decision::Yes((definition, target))) => {
            (Decision::Yes((definition.dialect, target.api)), Some((definition, target)))
        }
        Some(Decision::Unclear) => (Decision::Unclear, None),
        Some(Decision::No) => (Decision::No, None),
        None => (by_shape(head, trimmed, &request.body, request.says_anthropic), None),
    };
    let model = match target {
        Some((_, target)) if let Proof::ModelBehind(before) = target.proof => {
            model_in_path(trimmed, target, before).map(bedrock::model)
        }
        _ => request.deployment.map(Label::from_bytes),
    };
    match found {
        Decision::No => Judgement::NotModel,
        Decision::Unclear => Judgement::NeedBody,
        Decision::Yes((dialect, api)) => Judgement::ModelCall(Recognised {
            definition: definition(dialect),
            dialect,
            api: if dialect == Dialect::BedrockInvoke { bedrock::api(model.as_ref()) } else { api },
            stream: target.and_then(|(definition, target)| stream_in_path(definition, target)),
            provider: provider(host(head).as_ref(), port, path, dialect),
            model,
            known_target: target.is_some() && trimmed.len() == path.len(),
        }),
    }
}

/// What a `POST` is judged by.
struct Request<'a> {
    head: &'a RequestHead<'a>,
    path: &'a [u8],
    /// Without a slash at its end.
    trimmed: &'a [u8],
    body: Body<'a>,
    deployment: Option<&'a [u8]>,
    says_anthropic: bool,
}

impl Request<'_> {
    /// Of the APIs that have the longest end of this path, the first whose proof is there; `None` where the path settles nothing: nobody has
    /// it, or only such whose bodies would have to prove them, and others use it in their own ways.
    fn by_target(&self) -> Option<Decision<(&'static Definition, &'static Target)>> {
        let candidates = || targets().filter(|(_, target)| self.may_be(target));
        let longest = candidates().map(|(_, target)| target.suffix.len()).max()?;
        for (definition, target) in candidates().filter(|(_, target)| target.suffix.len() == longest) {
            match self.proven(definition, target) {
                Decision::Yes(()) => return Some(Decision::Yes((definition, target))),
                Decision::Unclear => return Some(Decision::Unclear),
                Decision::No => {}
            }
        }
        let is_settled = candidates().any(|(_, target)| !matches!(target.proof, Proof::Body(_)));
        is_settled.then_some(Decision::No)
    }

    fn may_be(&self, target: &Target) -> bool {
        self.trimmed.ends_with(target.suffix.as_bytes())
            && match target.proof {
                Proof::ModelBehind(before) => model_in_path(self.trimmed, target, before).is_some(),
                // A reference to what was not seen leaves it open what it is.
                Proof::Grpc => self.head.header("content-type").is_none_or(grpc::is_grpc),
                Proof::Path | Proof::Model | Proof::Body(_) => true,
            }
    }

    fn proven(&self, definition: &Definition, target: &Target) -> Decision<()> {
        let is_anthropic = || self.says_anthropic && definition.dialect == Dialect::AnthropicMessages;
        match target.proof {
            Proof::Path | Proof::ModelBehind(_) | Proof::Grpc => Decision::Yes(()),
            Proof::Model if self.deployment.is_some() || is_anthropic() => Decision::Yes(()),
            Proof::Model if self.body.is_form => is_form_for_model(target.api, self.path, self.head),
            Proof::Model => names_model(&self.body),
            Proof::Body(looks_right) => looks(&self.body, self.trimmed.len() == target.suffix.len(), looks_right),
        }
    }
}

/// Judges a request that asks for a WebSocket: by its path alone, what is said on it is not known.
fn judge_socket(head: &RequestHead<'_>, port: Option<u16>) -> Judgement {
    let path = head.path();
    let found = targets()
        .filter(|(definition, _)| SOCKETS.contains(&definition.dialect))
        .filter(|(_, target)| path.ends_with(target.suffix.as_bytes()))
        .max_by_key(|(_, target)| target.suffix.len());
    let Some((definition, target)) = found else { return Judgement::NotModel };
    let dialect = definition.dialect;
    Judgement::ModelSocket(Recognised {
        definition,
        dialect,
        api: target.api,
        provider: provider(host(head).as_ref(), port, path, dialect),
        model: model_in_query(head.target).map(Label::from_bytes),
        known_target: true,
        stream: None,
    })
}

/// Dialects that are spoken over WebSocket.
const SOCKETS: [Dialect; 2] = [Dialect::OpenaiResponses, Dialect::OpenaiRealtime];

/// The model that a query names, as Realtime's do. Nothing else of a query is looked at: keys are there.
fn model_in_query(target: &[u8]) -> Option<&[u8]> {
    let query = &target[memchr::memchr(b'?', target)? + 1..];
    let mut fields = query.split(|byte| *byte == b'&');
    fields.find_map(|field| field.strip_prefix(b"model=")).filter(|model| !model.is_empty())
}

enum Decision<T> {
    Yes(T),
    No,
    Unclear,
}

/// The beginning of a body.
struct Body<'a> {
    prefix: &'a [u8],
    extent: Extent,
    coding: Coding,
    /// It is `multipart/form-data`.
    is_form: bool,
}

impl Body<'_> {
    /// Whether nothing more will be seen before a decision.
    fn is_all(&self) -> bool {
        self.extent != Extent::Beginning || self.prefix.len() >= JUDGE_BYTES
    }

    fn is_complete(&self) -> bool {
        self.extent == Extent::Whole
    }

    fn is_no_object(&self) -> bool {
        let start = self.prefix.strip_prefix(b"\xef\xbb\xbf").unwrap_or(self.prefix).trim_ascii_start();
        start.first().map_or(self.is_complete(), |first| *first != b'{')
    }
}

/// On a path that a model API uses, but others too: is it one?
fn names_model(body: &Body<'_>) -> Decision<()> {
    if body.coding == Coding::Unknown {
        return Decision::Yes(());
    }
    if body.is_no_object() {
        return Decision::No;
    }
    let Some(shape) = Shape::of(body.prefix) else { return Decision::No };
    if shape.model || shape.stored_prompt {
        Decision::Yes(())
    } else if body.is_complete() {
        Decision::No
    } else if body.is_all() {
        // The model may stand behind the prompt. Chat front ends of web applications number their conversations.
        if shape.has_payload() && !shape.id { Decision::Yes(()) } else { Decision::No }
    } else {
        Decision::Unclear
    }
}

/// A form may have its model behind a file: the path, or the host, must do. Shops have images that are edited, too.
fn is_form_for_model(api: Api, path: &[u8], head: &RequestHead<'_>) -> Decision<()> {
    let takes_forms = matches!(api, Api::Audio | Api::Image);
    let of_models = || path.windows(4).any(|part| part == b"/v1/") || path.starts_with(b"/openai/");
    let is_known = || host(head).is_some_and(|host| provider_of_host(&host.as_str().to_ascii_lowercase()).is_some());
    if takes_forms && (of_models() || is_known()) { Decision::Yes(()) } else { Decision::No }
}

/// On a path that several APIs use: does the body look like one's?
fn looks(body: &Body<'_>, is_whole_path: bool, looks_right: fn(&Shape) -> bool) -> Decision<()> {
    if body.coding == Coding::Unknown || body.is_form || body.is_no_object() {
        return Decision::No;
    }
    let Some(mut shape) = Shape::of(body.prefix) else { return Decision::No };
    shape.is_whole_path = is_whole_path;
    shape.is_cut = body.is_all() && !body.is_complete();
    if looks_right(&shape) {
        Decision::Yes(())
    } else if body.is_all() || body.is_complete() {
        Decision::No
    } else {
        Decision::Unclear
    }
}

/// On any path: does the body look like a model call's?
fn by_shape(head: &RequestHead<'_>, path: &[u8], body: &Body<'_>, says_anthropic: bool) -> Decision<(Dialect, Api)> {
    let content_type = head.header("content-type").unwrap_or(b"json").to_ascii_lowercase();
    let is_json = memchr::memmem::find(&content_type, b"json").is_some();
    if !is_json || body.coding == Coding::Unknown || body.is_no_object() {
        return Decision::No;
    }
    let Some(shape) = Shape::of(body.prefix) else { return Decision::No };
    let chat = |shape: &Shape| {
        if says_anthropic || (shape.system && shape.max_tokens) {
            (Dialect::AnthropicMessages, Api::Messages)
        } else {
            (Dialect::OpenaiChat, Api::Chat)
        }
    };
    let last = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let says = |word: &[u8]| memchr::memmem::find(last, word).is_some();
    if shape.messages && (shape.model || (shape.role && shape.content)) {
        // Which of the two dialects it is may be told by what comes later.
        return if says_anthropic || body.is_all() { Decision::Yes(chat(&shape)) } else { Decision::Unclear };
    }
    // Images are made from a prompt too, and moderation has an input: the path or another field must agree.
    if shape.model && shape.prompt && (says(b"complet") || shape.sampling) {
        return Decision::Yes((Dialect::OpenaiCompletions, Api::TextCompletion));
    }
    if shape.model && shape.input && says(b"embed") {
        return Decision::Yes((Dialect::OpenaiEmbeddings, Api::Embeddings));
    }
    if mcp::is_call(&shape) {
        return Decision::Yes((Dialect::Mcp, Api::Tool));
    }
    // What routers put before TGI and SGLang.
    if shape.inputs && shape.max_new_tokens {
        return Decision::Yes((Dialect::Tgi, Api::TextCompletion));
    }
    if (shape.text || shape.input_ids) && shape.sampling_params {
        return Decision::Yes((Dialect::Sglang, Api::TextCompletion));
    }
    if body.is_all() { Decision::No } else { Decision::Unclear }
}

/// Whether a request's body is a form, as those with files are.
pub(super) fn is_form(head: &RequestHead<'_>) -> bool {
    const TYPE: &[u8] = b"multipart/form-data";
    head.header("content-type")
        .and_then(|value| value.get(..TYPE.len()))
        .is_some_and(|it| it.eq_ignore_ascii_case(TYPE))
}

/// The deployment that an Azure path names, which stands for the model.
fn azure_deployment(path: &[u8]) -> Option<&[u8]> {
    const BEFORE: &[u8] = b"/openai/deployments/";
    let rest = &path[memchr::memmem::find(path, BEFORE)? + BEFORE.len()..];
    rest.split(|byte| *byte == b'/').next().filter(|deployment| !deployment.is_empty())
}

/// What stands between one of these and a target's suffix. The name of a resource has slashes of its own, which SDKs encode; a
/// version of the model (Triton) is not told apart.
fn model_in_path<'a>(path: &'a [u8], target: &Target, before: &[&str]) -> Option<&'a [u8]> {
    let before_suffix = path.strip_suffix(target.suffix.as_bytes())?;
    let behind = |before: &&str| Some(memchr::memmem::find(before_suffix, before.as_bytes())? + before.len());
    let model = &before_suffix[before.iter().find_map(behind)?..];
    let version = memchr::memmem::find(model, b"/versions/").unwrap_or(model.len());
    let model = &model[..version];
    (!model.is_empty() && (!model.contains(&b'/') || model.starts_with(b"arn:"))).then_some(model)
}

/// Whether the answer is streamed, where it is the path that says so.
fn stream_in_path(definition: &Definition, target: &Target) -> Option<bool> {
    match definition.dialect {
        Dialect::BedrockConverse | Dialect::BedrockInvoke => Some(target.suffix.ends_with("-stream")),
        Dialect::XaiGrpc => Some(target.suffix.ends_with("Chunk")),
        Dialect::GeminiGenerate => Some(target.suffix.starts_with(":stream")),
        Dialect::OpenaiChat | Dialect::AnthropicMessages if target.suffix == ":streamRawPredict" => Some(true),
        Dialect::Tgi | Dialect::Triton => Some(target.suffix.ends_with("_stream")),
        _ => None,
    }
}
