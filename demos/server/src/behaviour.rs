//! How an answer comes out: how soon, how fast, how long, and with what fault.
//!
//! Three sources, each overriding the one before: the command line, the model's name, the request body's `demo` object.

use std::time::Duration;

use clap::Args;
use serde::Deserialize;

/// Most tokens of one answer, so that a request cannot ask for gigabytes.
const MAX_TOKENS: u32 = 1_000_000;

/// What every answer does unless a request says otherwise.
#[derive(Clone, Debug, Args)]
pub(crate) struct Defaults {
    /// Milliseconds from the end of a request to the first token
    #[arg(long, default_value_t = 200, value_name = "MS")]
    ttft: u64,
    /// Tokens per second of each answer
    #[arg(long, default_value_t = 50.0, value_name = "RATE")]
    rate: f64,
    /// Tokens of an answer; without it each answer has its own number between 16 and 96
    #[arg(long, value_name = "N")]
    tokens: Option<u32>,
    /// Share of requests that fail with 429, 500, an error in the stream or a cut connection
    #[arg(long, default_value_t = 0.0, value_name = "0..1")]
    fault_share: f64,
    /// Text of each token, instead of words about bees
    #[arg(long, value_name = "WORD")]
    word: Option<String>,
    /// Seed of the numbers that a request leaves open
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What goes wrong, if anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// An HTTP error, for the first `attempts` tries of a request (SDKs number their retries).
    Status { status: u16, attempts: u32 },
    /// An error event after so many tokens.
    ErrorAfter(u32),
    /// The connection breaks after so many tokens.
    CutAfter(u32),
}

/// One answer's behaviour.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Behaviour {
    /// End of the request to the first token.
    pub ttft: Duration,
    /// From one output event to the next.
    pub gap: Duration,
    /// Prompt tokens to report.
    pub input: u32,
    /// Of those, read from a cache.
    pub cached: u32,
    /// Of those, written to a cache.
    pub cache_written: u32,
    /// Generated tokens.
    pub output: u32,
    /// Of those, reasoning, which comes first.
    pub reasoning: u32,
    /// Tokens of one event.
    pub per_event: u32,
    /// Events of one write.
    pub at_once: usize,
    /// What goes wrong.
    pub fault: Fault,
    /// `Retry-After` of an HTTP error, in seconds.
    pub retry_after: Option<u32>,
    /// Compress the answer if the client accepts it.
    pub gzip: bool,
    /// The text of each token; tests put a canary here.
    pub word: Option<String>,
}

/// The `demo` object of a request body. Absent members leave things as they are.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wishes {
    ttft_ms: Option<u64>,
    rate: Option<f64>,
    input: Option<u32>,
    cached: Option<u32>,
    cache_written: Option<u32>,
    tokens: Option<u32>,
    reasoning: Option<u32>,
    per_event: Option<u32>,
    at_once: Option<u32>,
    status: Option<u16>,
    attempts: Option<u32>,
    retry_after: Option<u32>,
    error_after: Option<u32>,
    cut_after: Option<u32>,
    #[serde(default)]
    gzip: bool,
    word: Option<String>,
}

impl Wishes {
    /// Reads wishes out of a model's name: parts between dashes, a number and then what it is, such as `demo-50tps-200ms-64tok`.
    /// Parts that say nothing are only part of the name.
    pub(crate) fn of_model(name: &str) -> Self {
        let mut wishes = Self::default();
        for part in name.split('-') {
            let digits = part.bytes().take_while(u8::is_ascii_digit).count();
            let (number, unit) = part.split_at(digits);
            if unit == "gzip" && digits == 0 {
                wishes.gzip = true;
            }
            let Ok(number) = number.parse::<u32>() else { continue };
            match unit {
                "ms" => wishes.ttft_ms = Some(number.into()),
                "tps" => wishes.rate = Some(number.into()),
                "in" => wishes.input = Some(number),
                "cached" => wishes.cached = Some(number),
                "written" => wishes.cache_written = Some(number),
                "tok" => wishes.tokens = Some(number),
                "think" => wishes.reasoning = Some(number),
                "each" => wishes.per_event = Some(number),
                "atonce" => wishes.at_once = Some(number),
                "err" => wishes.status = u16::try_from(number).ok(),
                "tries" => wishes.attempts = Some(number),
                "errafter" => wishes.error_after = Some(number),
                "cutafter" => wishes.cut_after = Some(number),
                _ => {}
            }
        }
        wishes
    }

    fn fault(&self) -> Option<Fault> {
        if let Some(status) = self.status {
            return Some(Fault::Status { status, attempts: self.attempts.unwrap_or(u32::MAX) });
        }
        self.error_after.map(Fault::ErrorAfter).or(self.cut_after.map(Fault::CutAfter))
    }
}

/// What the client's own standard parameters say.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    /// `max_tokens` and its other names.
    pub max_tokens: Option<u32>,
}

impl Defaults {
    /// The behaviour of the answer to request number `id`.
    pub(crate) fn behaviour(&self, id: u64, model: &Wishes, body: &Wishes, limits: Limits) -> Behaviour {
        let mut dice = Dice::new(self.seed, id);
        // All numbers are drawn whether used or not, so that one wish does not change the others.
        let (tokens, input, cached) = (dice.between(16, 96), dice.between(20, 2000), dice.between(0, 3));
        let fault = self.random_fault(&mut dice);

        let pick = |of: fn(&Wishes) -> Option<u32>| of(body).or(of(model));
        let input = pick(|w| w.input).unwrap_or(input);
        let output = pick(|w| w.tokens).or(self.tokens).unwrap_or(tokens);
        let output = output.min(limits.max_tokens.unwrap_or(u32::MAX)).clamp(1, MAX_TOKENS);
        let cached = pick(|w| w.cached).unwrap_or(input / 4 * cached).min(input);
        let rate = body.rate.or(model.rate).unwrap_or(self.rate);
        let per_event = pick(|w| w.per_event).unwrap_or(1).max(1);
        let gap = if rate > 0.0 { Duration::from_secs_f64(f64::from(per_event) / rate) } else { Duration::ZERO };
        Behaviour {
            ttft: Duration::from_millis(body.ttft_ms.or(model.ttft_ms).unwrap_or(self.ttft)),
            gap,
            input,
            cached,
            cache_written: pick(|w| w.cache_written).unwrap_or(0).min(input - cached),
            output,
            reasoning: pick(|w| w.reasoning).unwrap_or(0).min(output),
            per_event,
            at_once: pick(|w| w.at_once).unwrap_or(1).max(1) as usize,
            fault: body.fault().or(model.fault()).unwrap_or(fault),
            retry_after: pick(|w| w.retry_after),
            gzip: body.gzip || model.gzip,
            word: body.word.clone().or_else(|| self.word.clone()),
        }
    }

    fn random_fault(&self, dice: &mut Dice) -> Fault {
        let (hit, kind) = (dice.share() < self.fault_share, dice.between(0, 3));
        match (hit, kind) {
            (false, _) => Fault::None,
            (true, 0) => Fault::Status { status: 429, attempts: 1 },
            (true, 1) => Fault::Status { status: 500, attempts: 1 },
            (true, 2) => Fault::ErrorAfter(5),
            (true, _) => Fault::CutAfter(5),
        }
    }
}

/// Numbers that depend on the seed and the request's number alone (splitmix64).
struct Dice(u64);

impl Dice {
    fn new(seed: u64, id: u64) -> Self {
        Self(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ id.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// From `low` to `high`, both possible.
    fn between(&mut self, low: u32, high: u32) -> u32 {
        let span = u64::from(high - low) + 1;
        low + u32::try_from(self.next() % span).unwrap_or(0)
    }

    /// From 0 to 1.
    fn share(&mut self) -> f64 {
        f64::from(u32::try_from(self.next() >> 32).unwrap_or(0)) / f64::from(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaults() -> Defaults {
        Defaults { ttft: 200, rate: 50.0, tokens: None, fault_share: 0.0, word: None, seed: 7 }
    }

    #[test]
    fn same_seed_and_number_give_the_same_answer() {
        let none = Wishes::default();
        let one = defaults().behaviour(3, &none, &none, Limits::default());
        assert_eq!(one, defaults().behaviour(3, &none, &none, Limits::default()));
        assert_ne!(one, defaults().behaviour(4, &none, &none, Limits::default()));
    }

    #[test]
    fn the_body_overrides_the_model_which_overrides_the_command_line() {
        let model = Wishes::of_model("demo-25tps-300ms-40tok-100in-60cached");
        let body = Wishes { tokens: Some(9), ..Wishes::default() };
        let got = defaults().behaviour(0, &model, &body, Limits::default());
        assert_eq!(got.gap, Duration::from_millis(40));
        assert_eq!(got.ttft, Duration::from_millis(300));
        assert_eq!((got.output, got.input, got.cached), (9, 100, 60));
    }

    #[test]
    fn max_tokens_caps_the_answer_and_subsets_stay_subsets() {
        let model = Wishes::of_model("x-90tok-10in-50cached-8written-200think");
        let got = defaults().behaviour(0, &model, &Wishes::default(), Limits { max_tokens: Some(12) });
        assert_eq!((got.output, got.reasoning), (12, 12));
        assert_eq!((got.input, got.cached, got.cache_written), (10, 10, 0));
    }

    #[test]
    fn faults_can_be_asked_for() {
        let fault =
            |name: &str| defaults().behaviour(0, &Wishes::of_model(name), &Wishes::default(), Limits::default()).fault;
        assert_eq!(fault("demo-429err"), Fault::Status { status: 429, attempts: u32::MAX });
        assert_eq!(fault("demo-500err-1tries"), Fault::Status { status: 500, attempts: 1 });
        assert_eq!(fault("demo-3errafter"), Fault::ErrorAfter(3));
        assert_eq!(fault("demo-3cutafter"), Fault::CutAfter(3));
        assert_eq!(fault("gpt-4o-mini"), Fault::None);
    }

    #[test]
    fn random_faults_come_in_their_share() {
        let defaults = Defaults { fault_share: 0.25, ..defaults() };
        let none = Wishes::default();
        let faults =
            (0..1000).filter(|id| defaults.behaviour(*id, &none, &none, Limits::default()).fault != Fault::None);
        assert!((200..300).contains(&faults.count()));
    }
}
