//! What goes over the wire, per provider: a request becomes a [`Call`], a [`Call`] and its [`Behaviour`] become an
//! [`Answer`].

mod anthropic;
mod bedrock;
mod cohere;
mod gemini;
mod groq;
mod mistral;
mod ollama;
mod openai;
mod responses;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::behaviour::{Behaviour, Limits, Wishes};

/// Seconds since 1970 that answers carry. It says nothing, so it may as well be the same in every run.
const CREATED: u64 = 1_790_000_000;

/// Which API was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Api {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completions,
    /// `/v1/embeddings`
    Embeddings,
    /// `/v1/responses`
    Responses,
    /// `/v1/messages`
    Messages,
    /// `/api/chat`
    OllamaChat,
    /// `/api/generate`
    OllamaGenerate,
    /// `/api/embed`
    OllamaEmbed,
    /// `/v2/chat`
    CohereChat,
    /// `/v2/embed`
    CohereEmbed,
    /// `/mistral/v1/chat/completions`, as Mistral's own path is OpenAI's
    Mistral,
    /// `/openai/v1/chat/completions`
    Groq,
    /// `/model/ID/converse`, and `-stream`
    Converse { stream: bool },
    /// `/model/ID/invoke` of an Anthropic model, and `-with-response-stream`
    Invoke { stream: bool },
    /// `/models/ID:generateContent`, and `:streamGenerateContent`, whose answer is events or an array
    Generate { stream: bool, as_events: bool },
}

impl Api {
    /// By the end of the path, as gateways put prefixes before it.
    pub(crate) fn of_target(path: &str, query: &str) -> Option<Self> {
        let as_events = query.split('&').any(|field| field == "alt=sse");
        [
            ("/mistral/v1/chat/completions", Self::Mistral),
            ("/openai/v1/chat/completions", Self::Groq),
            ("/v1/chat/completions", Self::Chat),
            ("/v1/completions", Self::Completions),
            ("/v1/embeddings", Self::Embeddings),
            ("/v1/responses", Self::Responses),
            ("/v1/messages", Self::Messages),
            ("/api/chat", Self::OllamaChat),
            ("/api/generate", Self::OllamaGenerate),
            ("/api/embed", Self::OllamaEmbed),
            ("/v2/chat", Self::CohereChat),
            ("/v2/embed", Self::CohereEmbed),
            ("/converse", Self::Converse { stream: false }),
            ("/converse-stream", Self::Converse { stream: true }),
            ("/invoke", Self::Invoke { stream: false }),
            ("/invoke-with-response-stream", Self::Invoke { stream: true }),
            (":generateContent", Self::Generate { stream: false, as_events }),
            (":streamGenerateContent", Self::Generate { stream: true, as_events }),
        ]
        .into_iter()
        .find_map(|(suffix, api)| path.ends_with(suffix).then_some(api))
    }

    fn is_ollama(self) -> bool {
        matches!(self, Self::OllamaChat | Self::OllamaGenerate | Self::OllamaEmbed)
    }

    fn is_cohere(self) -> bool {
        matches!(self, Self::CohereChat | Self::CohereEmbed)
    }

    /// Whether it answers with vectors.
    fn embeds(self) -> bool {
        matches!(self, Self::Embeddings | Self::OllamaEmbed | Self::CohereEmbed)
    }
}

/// What a request body says.
#[derive(Debug, Deserialize)]
struct RequestBody {
    model: Option<String>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    max_output_tokens: Option<u32>,
    options: Option<Value>,
    #[serde(rename = "inferenceConfig")]
    inference: Option<Value>,
    #[serde(default, alias = "texts")]
    input: Value,
    #[serde(default)]
    demo: Wishes,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

/// One call to a model.
#[derive(Debug)]
pub(crate) struct Call {
    /// Which API.
    pub api: Api,
    /// Number of the exchange.
    pub id: u64,
    /// Asked for.
    pub model: String,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// Whether usage belongs into an OpenAI stream.
    pub include_usage: bool,
    /// How many texts are to be embedded.
    pub inputs: usize,
    /// What the client's standard parameters say.
    pub limits: Limits,
    /// What the body's `demo` object says.
    pub wishes: Wishes,
}

impl Call {
    /// Reads a request's path and body.
    pub(crate) fn parse(api: Api, id: u64, path: &str, body: &[u8]) -> Result<Self, serde_json::Error> {
        let body: RequestBody = serde_json::from_slice(body)?;
        let predict = body.options.as_ref().and_then(|options| options["num_predict"].as_u64());
        let predict = predict.or(body.inference.as_ref().and_then(|inference| inference["maxTokens"].as_u64()));
        let max_tokens = body.max_completion_tokens.or(body.max_output_tokens).or(body.max_tokens);
        let (model, stream) = match api {
            Api::Converse { stream } | Api::Invoke { stream } => (bedrock::model(path), stream),
            Api::Generate { stream, .. } => (gemini::model(path), stream),
            // Ollama streams unless told not to.
            _ => (body.model, !api.embeds() && body.stream.unwrap_or(api.is_ollama())),
        };
        Ok(Self {
            api,
            id,
            model: model.unwrap_or_else(|| "demo".into()),
            stream,
            include_usage: body.stream_options.is_some_and(|options| options.include_usage),
            inputs: body.input.as_array().map_or(1, Vec::len),
            limits: Limits { max_tokens: max_tokens.or(predict.and_then(|n| n.try_into().ok())) },
            wishes: body.demo,
        })
    }

    /// Whether a complete answer carries token counts.
    pub(crate) fn usage_is_sent(&self) -> bool {
        match self.api {
            Api::Chat | Api::Completions => !self.stream || self.include_usage,
            _ => true,
        }
    }

    /// Whether the counts tell reasoning apart, which may be in the answer all the same.
    pub(crate) fn reasoning_is_told(&self) -> bool {
        !self.api.is_ollama() && !matches!(self.api, Api::CohereChat | Api::Mistral)
    }
}

/// A piece of a streamed answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Sent with the head, before any token.
    Lead(Vec<u8>),
    /// Generated output; so many tokens.
    Output(u32, Vec<u8>),
    /// Sent right behind the last output.
    Tail(Vec<u8>),
}

/// An answer that is to be written.
#[derive(Debug)]
pub(crate) struct Answer {
    /// `Content-Type`.
    pub content_type: &'static str,
    /// The provider's own headers.
    pub headers: Vec<(&'static str, String)>,
    /// Streamed: every piece. Otherwise: the body as the only piece.
    pub pieces: Vec<Piece>,
}

/// Takes out of the numbers what this API has no place for, so that the record holds what can be known from the wire.
pub(crate) fn leave_out_unsayable(api: Api, behaviour: &mut Behaviour) {
    if api.embeds() || api.is_ollama() {
        (behaviour.cached, behaviour.cache_written) = (0, 0);
    }
    if api.embeds() {
        (behaviour.output, behaviour.reasoning) = (0, 0);
    }
    if let Api::Converse { .. } = api {
        behaviour.reasoning = 0;
    }
    if matches!(api, Api::Generate { .. } | Api::CohereChat | Api::Mistral | Api::Groq) {
        behaviour.cache_written = 0;
    }
}

/// The answer without faults.
pub(crate) fn answer(call: &Call, behaviour: &Behaviour) -> Answer {
    match call.api {
        Api::Chat | Api::Completions | Api::Embeddings => openai::answer(call, behaviour),
        Api::Responses => responses::answer(call, behaviour),
        Api::Messages => anthropic::answer(call, behaviour),
        Api::OllamaChat | Api::OllamaGenerate | Api::OllamaEmbed => ollama::answer(call, behaviour),
        Api::CohereChat | Api::CohereEmbed => cohere::answer(call, behaviour),
        Api::Mistral => mistral::answer(call, behaviour),
        Api::Groq => groq::answer(call, behaviour),
        Api::Converse { .. } => bedrock::converse(call, behaviour),
        Api::Invoke { .. } => bedrock::invoke(call, behaviour),
        Api::Generate { as_events, .. } => gemini::answer(call, behaviour, as_events),
    }
}

/// The body and headers of an HTTP error.
pub(crate) fn error(api: Api, id: u64, status: u16) -> (Value, Vec<(&'static str, String)>) {
    match api {
        Api::Messages => (anthropic::error(status), anthropic::headers(id)),
        Api::Mistral => (mistral::error(status), gemini::headers(id)),
        Api::Groq => (groq::error(status), groq::headers(id)),
        _ if api.is_ollama() => (ollama::error(), ollama::headers(id)),
        _ if api.is_cohere() => (cohere::error(), cohere::headers(id)),
        Api::Converse { .. } | Api::Invoke { .. } => (bedrock::error(), bedrock::error_headers(id, status)),
        // Where a stream was asked for as an array, so is its error.
        Api::Generate { stream: true, as_events: false } => (json!([gemini::error(status)]), gemini::headers(id)),
        Api::Generate { .. } => (gemini::error(status), gemini::headers(id)),
        _ => (openai::error(status), openai::headers(id)),
    }
}

/// What a stream says when it breaks off with an error.
pub(crate) fn stream_error(api: Api) -> Vec<u8> {
    match api {
        Api::Responses => responses::stream_error(),
        Api::Messages => sse(Some("error"), &anthropic::error(529)),
        Api::Mistral => sse(None, &mistral::error(500)),
        Api::Groq => sse(None, &groq::error(500)),
        _ if api.is_ollama() => ndjson(&ollama::error()),
        _ if api.is_cohere() => cohere::stream_error(),
        Api::Converse { .. } | Api::Invoke { .. } => bedrock::exception(),
        Api::Generate { as_events: false, .. } => format!(",{}]", gemini::error(500)).into_bytes(),
        Api::Generate { .. } => sse(None, &gemini::error(500)),
        _ => sse(None, &openai::error(500)),
    }
}

/// The text of token number `index`.
fn word(behaviour: &Behaviour, index: u32) -> String {
    const WORDS: [&str; 8] = ["honey", "bees", "keep", "the", "hive", "warm", "all", "winter"];
    match &behaviour.word {
        Some(word) => format!("{word} "),
        None => format!("{} ", WORDS[index as usize % WORDS.len()]),
    }
}

/// All of a text, `from` included, `to` not.
fn text(behaviour: &Behaviour, from: u32, to: u32) -> String {
    (from..to).map(|index| word(behaviour, index)).collect()
}

/// Cuts the output into events: first token and number of tokens of each, and whether it is reasoning.
fn events(behaviour: &Behaviour) -> Vec<(u32, u32, bool)> {
    let mut events = Vec::new();
    let mut at = 0;
    while at < behaviour.output {
        let thinking = at < behaviour.reasoning;
        let end = if thinking { behaviour.reasoning } else { behaviour.output };
        let count = behaviour.per_event.min(end - at);
        events.push((at, count, thinking));
        at += count;
    }
    events
}

fn sse(event: Option<&str>, data: &Value) -> Vec<u8> {
    match event {
        Some(event) => format!("event: {event}\ndata: {data}\n\n").into_bytes(),
        None => format!("data: {data}\n\n").into_bytes(),
    }
}

fn ndjson(data: &Value) -> Vec<u8> {
    format!("{data}\n").into_bytes()
}
