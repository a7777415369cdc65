//! Streams as real servers send them, read whole, split and cut.

use super::*;
use crate::exchange::Dialect;

#[test]
fn every_dialect_has_a_row() {
    use Dialect::*;
    for dialect in [OpenaiChat, OpenaiCompletions, OpenaiEmbeddings, AnthropicMessages, Ollama] {
        assert_eq!(definition(dialect).dialect, dialect);
    }
}
