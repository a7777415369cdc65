//! What the beginning of a request's body looks like.

use std::sync::LazyLock;

use super::mcp;
use crate::json::{Kind, Outcome, PathSet, Scanner, Value, Visitor, Want};

/// Which members the beginning of a body shows.
#[derive(Default)]
pub(super) struct Shape {
    pub(super) model: bool,
    pub(super) messages: bool,
    pub(super) role: bool,
    pub(super) content: bool,
    pub(super) prompt: bool,
    pub(super) stored_prompt: bool,
    pub(super) input: bool,
    pub(super) system: bool,
    pub(super) max_tokens: bool,
    pub(super) sampling: bool,
    pub(super) id: bool,
    pub(super) agent: bool,
    /// Mistral.
    pub(super) agent_id: bool,
    /// TGI.
    pub(super) inputs: bool,
    pub(super) inputs_text: bool,
    pub(super) max_new_tokens: bool,
    /// SGLang.
    pub(super) text: bool,
    pub(super) input_ids: bool,
    pub(super) sampling_params: bool,
    /// llama.cpp.
    pub(super) n_predict: bool,
    pub(super) input_prefix: bool,
    pub(super) own_content: bool,
    /// Triton.
    pub(super) text_input: bool,
    /// MCP.
    pub(super) jsonrpc: bool,
    pub(super) mcp_method: bool,
    /// A method that others have, too.
    pub(super) common_method: bool,
    pub(super) protocol_version: bool,
    /// More of the body follows that is not seen.
    pub(super) is_cut: bool,
    /// The path is what stands here and nothing before it.
    pub(super) is_whole_path: bool,
}

#[derive(Clone, Copy)]
enum Part {
    Model,
    Messages,
    Role,
    Content,
    Prompt,
    StoredPrompt,
    Input,
    System,
    MaxTokens,
    Sampling,
    Id,
    Agent,
    AgentId,
    Inputs,
    MaxNewTokens,
    Text,
    InputIds,
    SamplingParams,
    NPredict,
    InputPrefix,
    OwnContent,
    TextInput,
    JsonRpc,
    Method,
    ProtocolVersion,
}

static SHAPE: LazyLock<PathSet<Part>> = LazyLock::new(|| {
    PathSet::new(&[
        ("model", Want::Length, Part::Model),
        ("messages", Want::Length, Part::Messages),
        ("messages[].role", Want::Length, Part::Role),
        ("messages[].content", Want::Length, Part::Content),
        ("prompt", Want::Length, Part::Prompt),
        // Responses: it may say which model.
        ("prompt.id", Want::Length, Part::StoredPrompt),
        ("input", Want::Length, Part::Input),
        ("system", Want::Length, Part::System),
        ("max_tokens", Want::Length, Part::MaxTokens),
        ("temperature", Want::Length, Part::Sampling),
        ("top_p", Want::Length, Part::Sampling),
        ("stop", Want::Length, Part::Sampling),
        ("logprobs", Want::Length, Part::Sampling),
        ("id", Want::Length, Part::Id),
        ("agent_id", Want::Length, Part::AgentId),
        ("agent", Want::Length, Part::Agent),
        ("inputs", Want::Length, Part::Inputs),
        ("parameters.max_new_tokens", Want::Length, Part::MaxNewTokens),
        ("text", Want::Length, Part::Text),
        ("input_ids", Want::Length, Part::InputIds),
        ("sampling_params", Want::Length, Part::SamplingParams),
        ("n_predict", Want::Length, Part::NPredict),
        ("input_prefix", Want::Length, Part::InputPrefix),
        ("content", Want::Length, Part::OwnContent),
        ("text_input", Want::Length, Part::TextInput),
        ("jsonrpc", Want::Length, Part::JsonRpc),
        ("method", Want::Scalar, Part::Method),
        ("params.protocolVersion", Want::Length, Part::ProtocolVersion),
    ])
});

impl Shape {
    /// `None` for what is no JSON.
    pub(super) fn of(prefix: &[u8]) -> Option<Self> {
        let mut shape = Self::default();
        let mut scanner = Scanner::new(&SHAPE);
        scanner.push(prefix, &mut shape);
        (scanner.end(&mut shape) != Outcome::Malformed).then_some(shape)
    }

    pub(super) fn has_payload(&self) -> bool {
        self.messages || self.prompt || self.input
    }

    fn set(&mut self, part: Part) {
        match part {
            Part::Model => self.model = true,
            Part::Messages => self.messages = true,
            Part::Role => self.role = true,
            Part::Content => self.content = true,
            Part::Prompt => self.prompt = true,
            Part::StoredPrompt => self.stored_prompt = true,
            Part::Input => self.input = true,
            Part::System => self.system = true,
            Part::MaxTokens => (self.max_tokens, self.sampling) = (true, true),
            Part::Sampling => self.sampling = true,
            Part::Id => self.id = true,
            Part::Agent => self.agent = true,
            Part::AgentId => self.agent_id = true,
            Part::Inputs => self.inputs = true,
            Part::MaxNewTokens => self.max_new_tokens = true,
            Part::Text => self.text = true,
            Part::InputIds => self.input_ids = true,
            Part::SamplingParams => self.sampling_params = true,
            Part::NPredict => self.n_predict = true,
            Part::InputPrefix => self.input_prefix = true,
            Part::OwnContent => self.own_content = true,
            Part::TextInput => self.text_input = true,
            Part::JsonRpc => self.jsonrpc = true,
            Part::Method => {}
            Part::ProtocolVersion => self.protocol_version = true,
        }
    }
}

impl Visitor<Part> for Shape {
    fn begin(&mut self, part: Part, kind: Kind) {
        match (part, kind) {
            // The model is a name, and whole before it counts.
            (Part::Model | Part::Id | Part::Method, _) | (Part::Messages, Kind::Text) => {}
            (Part::Inputs, Kind::Text) => (self.inputs, self.inputs_text) = (true, true),
            // Whatever else begins may be long.
            _ => self.set(part),
        }
    }

    fn value(&mut self, part: Part, value: Value<'_>) {
        match (part, value) {
            (Part::Model, Value::Length(1..)) => self.set(part),
            (Part::Method, Value::Text(method)) => {
                self.mcp_method = mcp::is_method(method);
                self.common_method = mcp::is_common_method(method);
            }
            (Part::Model | Part::Messages | Part::Method, _) => {}
            (_, Value::Null) => {}
            _ => self.set(part),
        }
    }
}
