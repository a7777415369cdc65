//! Tables of prices from files: in hbpf's own form, or LiteLLM's map as it is.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use hbpf_core::prices::{LongPrice, Price, Prices};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Largest file that is read; LiteLLM's map has 3 MB.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// LiteLLM's prices are per token.
const MILLION: f64 = 1e6;

/// From how many tokens on LiteLLM's map has prices of long prompts, the shortest first.
const LONG: [(u64, &str); 5] =
    [(100_000, "100k"), (128_000, "128k"), (200_000, "200k"), (256_000, "256k"), (272_000, "272k")];

/// What LiteLLM calls providers that have another name here.
const PROVIDERS: [(&str, &str); 17] = [
    ("azure", "azure.ai.openai"),
    ("azure_ai", "azure.ai.inference"),
    ("bedrock", "aws.bedrock"),
    ("bedrock_converse", "aws.bedrock"),
    ("cohere_chat", "cohere"),
    ("fireworks_ai", "fireworks"),
    ("gemini", "gcp.gemini"),
    ("mistral", "mistral_ai"),
    ("moonshot", "moonshot_ai"),
    ("nvidia_nim", "nvidia"),
    ("together_ai", "together"),
    ("vertex_ai-anthropic_models", "gcp.vertex_ai"),
    ("vertex_ai-embedding-models", "gcp.vertex_ai"),
    ("vertex_ai-language-models", "gcp.vertex_ai"),
    ("vertex_ai-llama_models", "gcp.vertex_ai"),
    ("vertex_ai-mistral_models", "gcp.vertex_ai"),
    ("xai", "x_ai"),
];

/// The prices that hold: those that come with hbpf, and over them those of a file.
pub(crate) fn load(file: Option<&Path>) -> Result<Arc<Prices>> {
    let mut prices = Prices::built_in().clone();
    if let Some(path) = file {
        prices.extend(read(path).with_context(|| format!("--prices {}", path.display()))?);
    }
    Ok(Arc::new(prices))
}

/// The prices of a file.
pub(crate) fn read(path: &Path) -> Result<Prices> {
    let mut text = String::new();
    let file = File::open(path).context("cannot be opened")?;
    file.take(MAX_BYTES + 1).read_to_string(&mut text).context("cannot be read")?;
    ensure!(text.len() as u64 <= MAX_BYTES, "has more than {} MiB, which no table of prices has", MAX_BYTES >> 20);
    parse(&text)
}

fn parse(text: &str) -> Result<Prices> {
    let prices = if text.trim_start().starts_with('{') { parse_litellm(text)? } else { Prices::parse(text)? };
    ensure!(prices.iter().next().is_some(), "has no price in it");
    Ok(prices)
}

/// A model in LiteLLM's map.
#[derive(Deserialize)]
struct Entry {
    litellm_provider: Option<String>,
    input_cost_per_token: Option<f64>,
    output_cost_per_token: Option<f64>,
    cache_read_input_token_cost: Option<f64>,
    cache_creation_input_token_cost: Option<f64>,
    cache_creation_input_token_cost_above_1hr: Option<f64>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

fn parse_litellm(text: &str) -> Result<Prices> {
    let map: Map<String, Value> = serde_json::from_str(text).context("is no JSON object")?;
    let mut prices = Prices::default();
    for (name, value) in map {
        // The first entry explains the others, and some have other things than numbers.
        let Ok(entry) = serde_json::from_value::<Entry>(value) else { continue };
        let Some(provider) = &entry.litellm_provider else { continue };
        let Some(price) = entry.price() else { continue };
        let model = name.strip_prefix(&format!("{provider}/")).unwrap_or(&name);
        // In some entries it stands as the family's name.
        let model =
            provider.split('-').next().and_then(|family| model.strip_prefix(&format!("{family}/"))).unwrap_or(model);
        let known = PROVIDERS.iter().find(|(theirs, _)| theirs == provider).map_or(provider.as_str(), |(_, ours)| ours);
        prices.insert(known, model, price);
    }
    if prices.iter().next().is_none() {
        bail!("has no model with prices per token in it; LiteLLM's map, or a table of hbpf's, is expected");
    }
    Ok(prices)
}

impl Entry {
    fn price(&self) -> Option<Price> {
        let input = self.input_cost_per_token?;
        let output = self.output_cost_per_token.unwrap_or(0.0);
        // Where all is 0 nothing is known: nobody gives it away.
        if !(input >= 0.0 && output >= 0.0 && input + output > 0.0) {
            return None;
        }
        let other = |name: &str| self.others.get(name).and_then(Value::as_f64);
        let long = LONG.iter().find_map(|(beyond, name)| {
            Some(LongPrice {
                beyond: *beyond,
                input: other(&format!("input_cost_per_token_above_{name}_tokens"))? * MILLION,
                output: other(&format!("output_cost_per_token_above_{name}_tokens"))? * MILLION,
                cache_read: other(&format!("cache_read_input_token_cost_above_{name}_tokens"))
                    .map(|cost| cost * MILLION),
            })
        });
        let per_million = |cost: Option<f64>| cost.map(|cost| cost * MILLION);
        Some(Price {
            input: input * MILLION,
            output: output * MILLION,
            cache_read: per_million(self.cache_read_input_token_cost),
            cache_write: per_million(self.cache_creation_input_token_cost),
            cache_write_long: per_million(self.cache_creation_input_token_cost_above_1hr),
            long,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: &str = r#"{
        "sample_spec": {"litellm_provider": "one of ...", "input_cost_per_token": "0"},
        "gpt-4o": {"litellm_provider": "openai", "input_cost_per_token": 1e-06, "output_cost_per_token": 4e-06, "mode": "chat"},
        "gemini/gemini-x": {"litellm_provider": "gemini", "input_cost_per_token": 2e-06, "output_cost_per_token": 12e-06,
            "input_cost_per_token_above_200k_tokens": 4e-06, "output_cost_per_token_above_200k_tokens": 18e-06},
        "vertex_ai/claude-x": {"litellm_provider": "vertex_ai-anthropic_models", "input_cost_per_token": 3e-06,
            "output_cost_per_token": 15e-06, "cache_read_input_token_cost": 3e-07, "cache_creation_input_token_cost": 3.75e-06},
        "groq/openai/gpt-oss-20b": {"litellm_provider": "groq", "input_cost_per_token": 1e-07, "output_cost_per_token": 5e-07},
        "free": {"litellm_provider": "openai", "input_cost_per_token": 0, "output_cost_per_token": 0},
        "image": {"litellm_provider": "openai", "input_cost_per_pixel": 1}
    }"#;

    #[test]
    fn litellms_map_is_read_as_it_is() {
        let prices = parse(MAP).unwrap();
        let names: Vec<_> = prices.iter().map(|(provider, model, _)| (provider, model)).collect();
        let expected = [
            ("gcp.gemini", "gemini-x"),
            ("gcp.vertex_ai", "claude-x"),
            ("groq", "openai/gpt-oss-20b"),
            ("openai", "gpt-4o"),
        ];
        assert_eq!(names, expected);
        let close = |value: f64, expected: f64| (value - expected).abs() < 1e-9;
        let gemini = prices.price("gcp.gemini", "gemini-x").unwrap();
        let long = gemini.long.unwrap();
        assert!(close(gemini.output, 12.0) && long.beyond == 200_000 && close(long.output, 18.0));
        let claude = prices.price("gcp.vertex_ai", "claude-x@20260101").unwrap();
        assert!(close(claude.cache_read.unwrap(), 0.3) && close(claude.cache_write.unwrap(), 3.75));
    }

    #[test]
    fn what_is_no_table_is_refused_in_one_line() {
        for (text, expected) in [
            ("{", "is no JSON object"),
            ("[1]", "line 1: a provider, a model and its prices are expected, with tabs between them"),
            ("{}", "has no model with prices per token in it; LiteLLM's map, or a table of hbpf's, is expected"),
            ("# nothing\n", "has no price in it"),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), expected, "{text}");
        }
        assert_eq!(read(Path::new("/nonexistent")).unwrap_err().to_string(), "cannot be opened");
    }
}
