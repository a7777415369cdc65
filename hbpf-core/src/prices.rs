//! What tokens cost: list prices, by provider and model.
//!
//! A list price is an estimate of what is paid: discounts, reserved capacity and fees for tools are on no wire. Where the wire
//! tells what an exchange has cost, that holds.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::exchange::{Exchange, Usage};

/// Prices that come with the program; its head says of what day they are, and whose.
const TABLE: &str = include_str!("prices/table.tsv");

/// What the line with the day begins with.
const AS_OF: &str = "# as of ";

/// Longest line and most lines of a table that are read: nobody has so many models.
const MAX_LINES: usize = 100_000;

/// Prices are per so many tokens.
const MILLION: f64 = 1e6;

/// What one exchange has cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// US dollars.
    pub usd: f64,
    /// By a list price, not by what the server said.
    pub is_estimate: bool,
}

/// Prices of one model, in US dollars per million tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Price {
    /// Of prompt tokens.
    pub input: f64,
    /// Of generated tokens.
    pub output: f64,
    /// Of prompt tokens that were read from a cache; the price of others where there is none.
    pub cache_read: Option<f64>,
    /// Of prompt tokens that were written to one, for five minutes.
    pub cache_write: Option<f64>,
    /// The same for an hour.
    pub cache_write_long: Option<f64>,
    /// Prices of long prompts.
    pub long: Option<LongPrice>,
}

/// Prices where the prompt has more than so many tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LongPrice {
    /// So many.
    pub beyond: u64,
    /// Of prompt tokens.
    pub input: f64,
    /// Of generated tokens.
    pub output: f64,
    /// Of prompt tokens that were read from a cache.
    pub cache_read: Option<f64>,
}

impl Price {
    /// What so many tokens cost; `None` where it is not known how many there were.
    pub fn of(&self, usage: &Usage) -> Option<f64> {
        let input = usage.input?;
        // Vectors have no output.
        let output = usage.output.or((self.output == 0.0).then_some(0))?;
        let long = self.long.as_ref().filter(|long| input > long.beyond);
        let (price_in, price_out) = long.map_or((self.input, self.output), |long| (long.input, long.output));
        let price_read = long.map_or(self.cache_read, |long| long.cache_read).unwrap_or(price_in);
        // In proportion where long prompts have a price of their own.
        let price_write =
            self.cache_write.map_or(price_in, |price| price * price_in / self.input.max(f64::MIN_POSITIVE));
        let read = usage.cached_input.unwrap_or(0).min(input);
        let written = usage.cache_creation_input.unwrap_or(0).min(input - read);
        let plain = input - read - written;
        let sum = plain as f64 * price_in
            + read as f64 * price_read
            + written as f64 * price_write
            + output as f64 * price_out;
        Some(sum / MILLION)
    }
}

/// Why a table cannot be read: one line for whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct PriceError {
    line: usize,
    what: String,
}

/// A table of prices.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prices {
    models: HashMap<(String, String), Price>,
    as_of: Option<String>,
}

impl Prices {
    /// Those that come with the program.
    pub fn built_in() -> &'static Self {
        static BUILT_IN: LazyLock<Prices> = LazyLock::new(|| Prices::parse(TABLE).expect("a test reads it"));
        &BUILT_IN
    }

    /// Reads a table: fields between tabs, as the one that comes with the program explains them.
    ///
    /// # Errors
    ///
    /// Which line is none of such a table, and what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, PriceError> {
        let mut prices = Self::default();
        for (number, line) in (1..).zip(text.lines()) {
            let error = |what: &str| PriceError { line: number, what: what.to_owned() };
            if number > MAX_LINES {
                return Err(error("there are more lines than any table has"));
            }
            if let Some(day) = line.strip_prefix(AS_OF) {
                prices.as_of = Some(day.trim().to_owned());
            }
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let (key, price) = parse_line(line).map_err(|what| error(&what))?;
            prices.models.insert(key, price);
        }
        Ok(prices)
    }

    /// Adds a model's price, in place of one that there may be.
    pub fn insert(&mut self, provider: &str, model: &str, price: Price) {
        self.models.insert((provider.to_ascii_lowercase(), model.to_ascii_lowercase()), price);
    }

    /// Adds those of another table, which hold where both have one.
    pub fn extend(&mut self, other: Self) {
        self.models.extend(other.models);
        self.as_of = other.as_of.or(self.as_of.take());
    }

    /// Of what day they are, as the table says.
    pub fn as_of(&self) -> Option<&str> {
        self.as_of.as_deref()
    }

    /// Provider, model and price of all, sorted.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, &Price)> {
        let mut all: Vec<_> = self.models.iter().collect();
        all.sort_by_key(|(key, _)| *key);
        all.into_iter().map(|((provider, model), price)| (provider.as_str(), model.as_str(), price))
    }

    /// The price of a model, by its name or, without what providers add to names, by what remains.
    pub fn price(&self, provider: &str, model: &str) -> Option<&Price> {
        let model = model.to_ascii_lowercase();
        names(&model).find_map(|name| {
            let providers = sellers(provider, name).into_iter().flatten();
            providers.filter_map(|provider| self.models.get(&(provider.to_owned(), name.to_owned()))).next()
        })
    }

    /// What an exchange that has ended has cost; `None` where that is not known.
    pub fn cost(&self, exchange: &Exchange) -> Option<Cost> {
        if let Some(usd) = exchange.cost_reported_usd {
            return Some(Cost { usd, is_estimate: false });
        }
        let usage = &exchange.usage;
        if usage.input.is_none() && usage.output.is_none() && exchange.status.is_some_and(|status| status >= 400) {
            // Nobody charges for a refusal.
            return Some(Cost { usd: 0.0, is_estimate: false });
        }
        let models = [exchange.response_model.as_ref(), exchange.model.as_ref()].into_iter().flatten();
        let price = models.filter_map(|model| self.price(exchange.provider.as_str(), model.as_str())).next()?;
        Some(Cost { usd: price.of(usage)?, is_estimate: true })
    }
}

fn parse_line(line: &str) -> Result<((String, String), Price), String> {
    let fields: Vec<&str> = line.split('\t').map(str::trim).collect();
    let [provider, model, rest @ ..] = &fields[..] else {
        return Err("a provider, a model and its prices are expected, with tabs between them".to_owned());
    };
    let number = |index: usize, name: &str| match rest.get(index).copied().unwrap_or("-") {
        "-" | "" => Ok(None),
        text => match text.parse::<f64>() {
            Ok(number) if number.is_finite() && number >= 0.0 => Ok(Some(number)),
            _ => Err(format!("{name} is {text:?}, which is no price")),
        },
    };
    let needed = |index, name: &str| number(index, name)?.ok_or_else(|| format!("{name} is missing"));
    if provider.is_empty() || model.is_empty() || rest.len() > 9 {
        return Err("a provider, a model and at most nine numbers are expected".to_owned());
    }
    let long = match number(5, "the length of long prompts")? {
        None => None,
        Some(beyond) => Some(LongPrice {
            beyond: beyond as u64,
            input: needed(6, "the price of input of long prompts")?,
            output: needed(7, "the price of output of long prompts")?,
            cache_read: number(8, "the price of cached input of long prompts")?,
        }),
    };
    let price = Price {
        input: needed(0, "the price of input")?,
        output: needed(1, "the price of output")?,
        cache_read: number(2, "the price of cached input")?,
        cache_write: number(3, "the price of input that is cached")?,
        cache_write_long: number(4, "the price of input that is cached for an hour")?,
        long,
    };
    Ok(((provider.to_ascii_lowercase(), model.to_ascii_lowercase()), price))
}

/// Whose price list holds for a model of this name at this provider.
fn sellers<'a>(provider: &'a str, model: &str) -> [Option<&'a str>; 2] {
    let makers = if model.starts_with("claude") {
        Some("anthropic")
    } else {
        match provider {
            "azure.ai.openai" => Some("openai"),
            "gcp.vertex_ai" | "gcp.gen_ai" => Some("gcp.gemini"),
            _ => None,
        }
    };
    // A maker's list holds for those who resell at its prices.
    let resells =
        matches!(provider, "azure.ai.openai" | "azure.ai.inference" | "gcp.vertex_ai" | "gcp.gen_ai" | "aws.bedrock");
    [Some(provider), makers.filter(|_| resells)]
}

/// A model's name, and what remains of it without what is added to names: a region, a maker, a version, a day.
fn names(model: &str) -> impl Iterator<Item = &str> {
    const REGIONS: [&str; 6] = ["us.", "eu.", "apac.", "au.", "jp.", "global."];
    let model = model.strip_prefix("models/").unwrap_or(model);
    let local = REGIONS.iter().find_map(|region| model.strip_prefix(region)).unwrap_or(model);
    let unversioned = without_version(local);
    let undated = without_day(unversioned);
    let plain = undated.strip_prefix("anthropic.").unwrap_or(undated);
    let base = plain.strip_suffix("-latest").unwrap_or(plain);
    [model, local, unversioned, undated, plain, base].into_iter()
}

/// `x-v1:0` and `x-v1` of Bedrock.
fn without_version(model: &str) -> &str {
    let Some((name, version)) = model.rsplit_once("-v") else { return model };
    let is_version = !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit() || byte == b':');
    if is_version { name } else { model }
}

/// `x-20251001`, `x-2026-03-05`, `x@20251001`.
fn without_day(model: &str) -> &str {
    for digits in [8, 10] {
        let Some((name, day)) = model.split_at_checked(model.len().saturating_sub(digits)) else { continue };
        let is_day = match digits {
            8 => day.bytes().all(|byte| byte.is_ascii_digit()),
            _ => day
                .bytes()
                .enumerate()
                .all(|(at, byte)| if matches!(at, 4 | 7) { byte == b'-' } else { byte.is_ascii_digit() }),
        };
        if let Some(name) = name.strip_suffix(['-', '@']).filter(|name| is_day && !name.is_empty()) {
            return name;
        }
    }
    model
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(input: u64, output: u64, read: u64, written: u64) -> Usage {
        Usage {
            input: Some(input),
            output: Some(output),
            cached_input: Some(read),
            cache_creation_input: Some(written),
            ..Usage::default()
        }
    }

    fn costs(provider: &str, model: &str, usage: &Usage) -> Option<f64> {
        Prices::built_in().price(provider, model)?.of(usage)
    }

    #[test]
    fn cached_tokens_have_prices_of_their_own() {
        // 600 * 3 + 300 * 0.3 + 100 * 3.75 + 50 * 15
        let cost = costs("anthropic", "claude-sonnet-4-5", &usage(1000, 50, 300, 100)).unwrap();
        assert!((cost - 0.003_015).abs() < 1e-12, "{cost}");
        let cost = costs("openai", "gpt-4o", &usage(1000, 50, 0, 0)).unwrap();
        assert!((cost - 0.003).abs() < 1e-12, "{cost}");
    }

    #[test]
    fn a_long_prompt_is_dearer_as_a_whole() {
        let [short, long] = [272_000, 272_001].map(|input| costs("openai", "gpt-5.4", &usage(input, 0, 0, 0)).unwrap());
        assert!((short - 0.68).abs() < 1e-9 && (long - 1.360_005).abs() < 1e-9, "{short} {long}");
    }

    #[test]
    fn what_is_added_to_names_does_not_matter() {
        for (provider, model) in [
            ("anthropic", "claude-haiku-4-5"),
            ("anthropic", "claude-haiku-4-5-20251001"),
            ("anthropic", "Claude-Haiku-4-5"),
            ("aws.bedrock", "us.anthropic.claude-haiku-4-5-20251001-v1:0"),
            ("aws.bedrock", "anthropic.claude-haiku-4-5-v1"),
            ("gcp.vertex_ai", "claude-haiku-4-5@20251001"),
            ("azure.ai.inference", "claude-haiku-4-5"),
        ] {
            assert_eq!(costs(provider, model, &usage(1_000_000, 0, 0, 0)), Some(1.0), "{provider} {model}");
        }
        assert!(costs("azure.ai.openai", "gpt-4o-2024-08-06", &usage(1, 1, 0, 0)).is_some());
        assert!(costs("gcp.vertex_ai", "models/gemini-3.8-flash", &usage(1, 1, 0, 0)).is_some());
        assert!(costs("aws.bedrock", "amazon.nova-lite-v1:0", &usage(1, 1, 0, 0)).is_some());
        // Who serves such models for themselves pays otherwise.
        for (provider, model) in [
            ("unknown", "gpt-4o"),
            ("vllm", "openai/gpt-oss-120b"),
            ("openai", "gpt-0"),
            ("openai", ""),
            ("openrouter", "gpt-4o"),
        ] {
            assert_eq!(costs(provider, model, &usage(1, 1, 0, 0)), None, "{provider} {model}");
        }
    }

    #[test]
    fn what_is_not_known_costs_nothing_known() {
        let price = Prices::built_in().price("openai", "gpt-4o").unwrap();
        assert_eq!(price.of(&Usage::default()), None);
        assert_eq!(price.of(&Usage { input: Some(1), ..Usage::default() }), None);
        let vectors = Prices::built_in().price("openai", "text-embedding-3-small").unwrap();
        assert_eq!(vectors.of(&Usage { input: Some(1_000_000), ..Usage::default() }), Some(0.02));
    }

    #[test]
    fn a_table_says_which_line_is_wrong() {
        let mut prices = Prices::parse("# as of 2027-01-02\nx\tm\t1\t2\n\nopenai\tgpt-4o\t7\t8\t-\t9\n").unwrap();
        assert_eq!(prices.as_of(), Some("2027-01-02"));
        assert_eq!(prices.iter().count(), 2);
        let mut all = Prices::built_in().clone();
        all.extend(std::mem::take(&mut prices));
        assert_eq!(all.price("openai", "gpt-4o").map(|price| price.input), Some(7.0));
        assert_eq!(all.as_of(), Some("2027-01-02"));
        for (text, expected) in [
            ("x", "line 1: a provider, a model and its prices are expected, with tabs between them"),
            ("# x\nx\tm\t1", "line 2: the price of output is missing"),
            ("x\tm\t1\t-1", "line 1: the price of output is \"-1\", which is no price"),
            ("x\tm\t1\tnan", "line 1: the price of output is \"nan\", which is no price"),
            ("x\tm\t1\t1\t\t\t\t9", "line 1: the price of input of long prompts is missing"),
            ("x\tm\t1\t1\t1\t1\t1\t1\t1\t1\t1\t1", "line 1: a provider, a model and at most nine numbers are expected"),
        ] {
            assert_eq!(Prices::parse(text).unwrap_err().to_string(), expected);
        }
    }
}
