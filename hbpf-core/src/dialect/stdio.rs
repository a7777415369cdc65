//! Reads the messages between an MCP server and who has started it: JSON-RPC over standard input and output, a document a line.

use std::sync::LazyLock;

use super::definition::Slot;
use super::mcp;
use super::reading::{number_of, number_of_number, set_label};
use super::recognise::Recognised;
use super::session::{Said, ServerMessages};
use crate::exchange::{Api, ToolCall};
use crate::json::{Outcome, PathSet, Scanner, Value, Visitor, Want};
use crate::label::Label;

/// What a client's message is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// It asks something of an MCP server.
    Call {
        /// A number that stands for its id, which the answer has, too.
        id: u64,
        /// What it asks for.
        call: ToolCall,
    },
    /// What was asked with this id is not wanted any more.
    Cancelled(u64),
    /// JSON-RPC, and nothing that is asked of an MCP server.
    Other,
    /// Something else.
    Foreign,
}

/// The reader of one server's messages, which come in lines.
pub struct StdioSession {
    client: Scanner<ClientSlot>,
    asked: Asked,
    server: ServerMessages,
}

#[derive(Default)]
struct Asked {
    is_rpc: bool,
    id: Option<u64>,
    cancelled: Option<u64>,
    method: Option<Label>,
    name: Option<Label>,
    has_revision: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClientSlot {
    Version,
    Id,
    Method,
    Name,
    Revision,
    Cancelled,
}

static CLIENT: LazyLock<PathSet<ClientSlot>> = LazyLock::new(|| {
    PathSet::new(&[
        ("jsonrpc", Want::Scalar, ClientSlot::Version),
        ("id", Want::Scalar, ClientSlot::Id),
        ("method", Want::Scalar, ClientSlot::Method),
        ("params.name", Want::Scalar, ClientSlot::Name),
        ("params.protocolVersion", Want::Length, ClientSlot::Revision),
        ("params.requestId", Want::Scalar, ClientSlot::Cancelled),
    ])
    // Since the revision of 2026-07-28, in every request.
    .and_at(&["params", "_meta", "io.modelcontextprotocol/protocolVersion"], Want::Length, ClientSlot::Revision)
});

static SERVER: LazyLock<PathSet<Slot>> = LazyLock::new(|| {
    mcp::answer().and_within("", &[("id", Want::Scalar, Slot::Response), ("result", Want::Length, Slot::Last)])
});

impl std::fmt::Debug for StdioSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StdioSession").finish_non_exhaustive()
    }
}

impl Default for StdioSession {
    fn default() -> Self {
        let server = ServerMessages::new(&SERVER, &mcp::RPC);
        Self { client: Scanner::new(&CLIENT), asked: Asked::default(), server }
    }
}

impl StdioSession {
    /// What all calls have in common.
    pub fn recognised() -> Recognised {
        Recognised::at(&mcp::RPC, Api::Tool, "mcp")
    }

    /// Memory that it holds beyond its own size, in bytes.
    pub fn memory(&self) -> usize {
        self.client.memory() + self.server.memory()
    }

    /// Gives up what costs memory and is missed by nobody.
    pub fn shed(&mut self) {
        self.client.shed();
        self.server.shed();
    }

    /// The next bytes of a client's message.
    pub fn client_bytes(&mut self, bytes: &[u8]) {
        self.client.push(bytes, &mut self.asked);
    }

    /// The client's message is over. Gives what it is, if there was one. `is_mcp`: it is known that they speak MCP.
    pub fn client_ends(&mut self, is_mcp: bool) -> Option<Told> {
        let outcome = self.client.end(&mut self.asked);
        let asked = std::mem::take(&mut self.asked);
        match outcome {
            Outcome::Empty => None,
            Outcome::Complete => Some(asked.told(is_mcp)),
            Outcome::Incomplete | Outcome::Malformed => Some(Told::Foreign),
        }
    }

    /// The rest of the client's message will not be seen.
    pub fn client_aborts(&mut self) {
        self.client.begin();
        self.asked = Asked::default();
    }

    /// The next bytes of a server's message.
    pub fn server_bytes(&mut self, bytes: &[u8]) {
        self.server.bytes(bytes);
    }

    /// The server's message is over. Gives what it says, if it is a whole document.
    pub fn server_ends(&mut self) -> Option<Said<'_>> {
        self.server.end()
    }

    /// What the server has said that it is called.
    pub fn server_name(&self) -> Option<&Label> {
        self.server.model()
    }

    /// Which call the message of the server is about, of which not all will be seen, as far as it has said so.
    pub fn server_cut(&self) -> Option<u64> {
        self.server.response()
    }

    /// Before a server's message begins, and where the rest of one will not be seen. What the server is called stays.
    pub fn server_begins(&mut self) {
        self.server.begin_keeping_model();
    }
}

impl Asked {
    fn told(self, is_mcp: bool) -> Told {
        let Self { is_rpc: true, id, cancelled, method, name, has_revision } = self else { return Told::Foreign };
        let Some(method) = method else { return Told::Other };
        if let Some(cancelled) = cancelled.filter(|_| &*method == "notifications/cancelled") {
            return Told::Cancelled(cancelled);
        }
        let is_common = mcp::is_common_method(method.as_bytes()) && (is_mcp || has_revision);
        match id.filter(|_| is_common || mcp::is_method(method.as_bytes())) {
            Some(id) => {
                let name = name.filter(|_| mcp::has_name(&method));
                Told::Call { id, call: ToolCall { method, name } }
            }
            None => Told::Other,
        }
    }
}

impl Visitor<ClientSlot> for Asked {
    fn value(&mut self, slot: ClientSlot, value: Value<'_>) {
        match (slot, value) {
            (ClientSlot::Version, Value::Text(version)) => self.is_rpc = version == b"2.0",
            (ClientSlot::Id, value) => self.id = id_of(value),
            (ClientSlot::Method, Value::Text(method)) => set_label(&mut self.method, method),
            (ClientSlot::Name, Value::Text(name)) => set_label(&mut self.name, name),
            (ClientSlot::Revision, Value::Length(_)) => self.has_revision = true,
            (ClientSlot::Cancelled, value) => self.cancelled = id_of(value),
            _ => {}
        }
    }
}

/// As [`Slot::Response`] has it.
fn id_of(id: Value<'_>) -> Option<u64> {
    match id {
        Value::Text(text) => Some(number_of(text)),
        Value::Number(number) => Some(number_of_number(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(line: &str, is_mcp: bool) -> Option<Told> {
        let mut session = StdioSession::default();
        session.client_bytes(line.as_bytes());
        session.client_ends(is_mcp)
    }

    fn call(line: &str, is_mcp: bool) -> Option<(String, Option<String>)> {
        match told(line, is_mcp)? {
            Told::Call { call, .. } => Some((call.method.to_string(), call.name.map(|name| name.to_string()))),
            _ => None,
        }
    }

    #[test]
    fn calls_are_told_from_what_else_clients_say() {
        let tool =
            r#"{"method":"tools/call","params":{"name":"add","arguments":{"name":"x","id":5}},"jsonrpc":"2.0","id":7}"#;
        assert_eq!(call(tool, false), Some(("tools/call".into(), Some("add".into()))));
        let resource =
            r#"{"jsonrpc":"2.0","id":"a","method":"resources/read","params":{"uri":"file:///x","name":"y"}}"#;
        assert_eq!(call(resource, false), Some(("resources/read".into(), None)), "only of tools and prompts");
        let initialize = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18"}}"#;
        assert_eq!(call(initialize, false), Some(("initialize".into(), None)));
        let of_an_editor = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"processId":1}}"#;
        assert_eq!(told(of_an_editor, false), Some(Told::Other));
        assert_eq!(call(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, true), Some(("ping".into(), None)));
        assert_eq!(told(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, false), Some(Told::Other));
        assert_eq!(told(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#, false), Some(Told::Other));
        assert_eq!(
            told(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, false),
            Some(Told::Other),
            "to the server's question"
        );
        assert_eq!(told(r#"{"jsonrpc":"1.0","id":1,"method":"tools/call"}"#, false), Some(Told::Foreign));
        assert_eq!(told("Content-Length: 17", false), Some(Told::Foreign));
        assert_eq!(told("\r", false), None);
    }

    #[test]
    fn an_answer_has_the_id_of_its_question_as_text_or_number() {
        for id in ["7", "\"7\"", "\"a-b\"", "0"] {
            let line = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/list"}}"#);
            let Some(Told::Call { id: asked, .. }) = told(&line, false) else { panic!("{id}") };
            let mut session = StdioSession::default();
            session.server_bytes(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#).as_bytes());
            let said = session.server_ends().unwrap();
            assert_eq!((said.response(), said.is_over()), (Some(asked), true));
            let cancel = format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id},"reason":"x"}}}}"#
            );
            assert_eq!(told(&cancel, true), Some(Told::Cancelled(asked)));
        }
    }

    #[test]
    fn what_a_server_asks_is_no_answer() {
        let mut session = StdioSession::default();
        session.server_bytes(br#"{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage","params":{"result":{}}}"#);
        assert!(!session.server_ends().unwrap().is_over());
        session.server_begins();
        session.server_bytes(br#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"no such tool"}}"#);
        assert!(session.server_ends().unwrap().is_over());
    }

    #[test]
    fn a_server_keeps_its_name() {
        let mut session = StdioSession::default();
        session.server_bytes(br#"{"jsonrpc":"2.0","id":1,"result":{"serverInfo":{"name":"files"}}}"#);
        assert_eq!(session.server_ends().unwrap().model().map(Label::as_str), Some("files"));
        session.server_begins();
        session.server_bytes(br#"{"jsonrpc":"2.0","id":2,"result":{"isError":true}}"#);
        assert_eq!(session.server_ends().unwrap().model().map(Label::as_str), Some("files"));
    }
}
