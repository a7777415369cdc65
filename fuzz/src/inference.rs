//! What inference servers answer about themselves.

use hbpf_core::inference::{Answer, Fetch, NoMatch, Place, Watch};
use hbpf_core::time::Nanos;

use crate::input::Input;

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";

/// The first control byte chooses what was asked for and whether the payload has a head of its own, the others the pieces.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let choice = usize::from(input.byte());
    let place = Place::ALL[choice % Place::ALL.len()];
    let head = if choice < 128 { HEAD } else { &[] };
    let whole = answer(place, [head, input.payload].into_iter());
    assert_eq!(answer(place, std::iter::once(head).chain(input.pieces())), whole, "pieces mean what the whole means");
    let Ok(answered) = whole else { return };
    let mut watch = Watch::new(None);
    for second in [0, 5, 100] {
        let now = Nanos(second * 1_000_000_000);
        watch.take(now, answered.clone(), Some(Default::default()));
        let engine = watch.frame(now);
        let percents = [engine.kv_cache_percent, engine.prefix_cache_hit_percent, engine.agreement_percent];
        assert!(percents.into_iter().flatten().all(|percent| (0.0..=100.0).contains(&percent)), "{engine:?}");
        assert!(engine.output_tokens_per_second.is_none_or(|rate| rate >= 0.0), "{engine:?}");
        assert!(engine.models.len() + engine.replicas.len() + engine.loaded_models.len() < 200, "lists are bounded");
    }
}

fn answer<'a>(place: Place, pieces: impl Iterator<Item = &'a [u8]>) -> Result<Answer, NoMatch> {
    let mut fetch = Fetch::new(place);
    for piece in pieces {
        if let Some(outcome) = fetch.push(piece) {
            return outcome;
        }
    }
    fetch.end()
}
