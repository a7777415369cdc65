//! What requests and answers of model APIs say: model, tokens, timing of output, how it ended.
//!
//! A dialect is how bodies are to be read; who serves is the provider, and many providers speak one dialect. Each
//! dialect is one module with one `Definition`: where it is served, which places in its documents matter, how its
//! token counts add up. One over gRPC has a `Service` beside it. To add one, write its module and add a row to `DEFINITIONS`.
//! Users may describe others: [`install`].
//!
//! [`judge`] says whether a request is a model call, [`Interpreter`] reads the bodies of one exchange, and
//! [`request_facts`] and [`response_facts`] read the headers. [`Session`] reads the messages of a connection that carries
//! many exchanges, and says which of them each is about, and [`StdioSession`] those of an MCP server's standard input and output.

mod anthropic;
mod bedrock;
mod cohere;
mod custom;
mod definition;
mod form;
mod gemini;
mod grpc;
mod headers;
mod interpreter;
mod llama_cpp;
mod lm_studio;
mod mcp;
mod media;
mod mistral;
mod ollama;
mod openai;
mod provider;
mod reading;
mod recognise;
mod responses;
mod session;
mod sglang;
mod shape;
mod stdio;
mod tgi;
mod triton;
mod xai;

pub use custom::{
    AlreadyInstalled, CustomApi, CustomBodies, CustomPlaces, MAX_CUSTOM, MAX_PATH_BYTES, install, is_named_by_user,
    is_path, usual_api,
};
pub use headers::{RequestHeaderFacts, ResponseHeaderFacts, request_facts, response_facts};
pub use interpreter::Interpreter;
pub use provider::provider_of_host;
pub use recognise::{Extent, JUDGE_BYTES, Judgement, Recognised, judge, target_patterns};
pub use session::{Asked, Said, Session, Subject};
pub use stdio::{StdioSession, Told};

use crate::exchange::{Dialect, ServiceTier, ToolCall, Usage};
use crate::label::Label;
use crate::time::Nanos;
use definition::Definition;

/// Every dialect that can be read.
static DEFINITIONS: [&Definition; 22] = [
    &openai::CHAT,
    &openai::COMPLETIONS,
    &openai::EMBEDDINGS,
    &responses::RESPONSES,
    &responses::REALTIME,
    &anthropic::MESSAGES,
    &ollama::NATIVE,
    &bedrock::CONVERSE,
    &bedrock::INVOKE,
    &xai::COMPLETIONS,
    &gemini::GENERATE,
    &gemini::INTERACTIONS,
    &cohere::CHAT,
    &media::IMAGES,
    &media::AUDIO,
    &mistral::CONVERSATIONS,
    // Of those that share paths, Triton first: it tells by the path.
    &triton::GENERATE,
    &tgi::GENERATE,
    &sglang::GENERATE,
    &llama_cpp::COMPLETION,
    &lm_studio::CHAT,
    &mcp::RPC,
];

/// All dialects that are built in.
pub fn all() -> impl ExactSizeIterator<Item = Dialect> {
    DEFINITIONS.iter().map(|definition| definition.dialect)
}

fn definition(dialect: Dialect) -> &'static Definition {
    let found = DEFINITIONS.iter().find(|definition| definition.dialect == dialect);
    // A user's are found by where they are served.
    found.copied().unwrap_or(&definition::NOT_BUILT_IN)
}

/// One event with generated output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    /// When the bytes came that completed it.
    pub when: Nanos,
    /// Its tokens. Exact where the server counts along in every event; otherwise an estimate. Most dialects send one
    /// token an event (of each choice, where several are generated). Anthropic packs several: there the running total
    /// is the larger of the number of events and a quarter of the bytes of text, so that single events may have 0.
    pub tokens: u64,
    /// It is not reasoning only.
    pub visible: bool,
}

/// What the bodies of one exchange have said so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// The model asked for.
    pub model: Option<Label>,
    /// Whether a streamed answer was asked for; once the answer has begun, whether it is one.
    pub stream: Option<bool>,
    /// The request asks for usage in the stream (`stream_options.include_usage`).
    pub usage_requested: Option<bool>,
    /// What is asked of an MCP server.
    pub tool_call: Option<Box<ToolCall>>,
    /// The request asks for several answers, in a dialect whose counts are about one each.
    pub asks_for_several: bool,
    /// The model that answered.
    pub response_model: Option<Label>,
    /// Reported token counts, in normal form.
    pub usage: Usage,
    /// The counts are from amid the stream, and events behind them were missed: there was more output.
    pub usage_is_partial: bool,
    /// In which tier it was served, as the answer says.
    pub tier: Option<ServiceTier>,
    /// US dollars that the answer says that it has cost.
    pub cost_usd: Option<f64>,
    /// For how long the request has waited inside the server, as that says, in seconds.
    pub queue_seconds: Option<f64>,
    /// Why generation ended; of several choices, the last to end.
    pub finish_reason: Option<Label>,
    /// The provider's type of an error, in an error's body or in the stream.
    pub error_type: Option<Label>,
    /// The answer's id.
    pub response_id: Option<Label>,
    /// Who serves, as far as the body's shape tells. A hint: use it where nothing better is known.
    pub provider: Option<Label>,
    /// The dialect's own end was seen: `[DONE]`, `message_stop`, `"done":true`, the end of a single document, or gRPC's status.
    pub finished: bool,
    /// The answer is an error: by status, or by an error object in the body or stream.
    pub is_error: bool,
    /// Documents of the answer that could not be read: cut by a gap, or no JSON.
    pub missed_events: u64,
}

#[cfg(test)]
mod tests;
