//! Tables of prices from files: in hbpf's own form, or LiteLLM's map as it is; and the one that is installed.

use std::env;
use std::fmt::Write as _;
use std::fs::{self, File, Permissions};
use std::io::{Read, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, ensure};
use hbpf_core::prices::{LongPrice, Price, PriceError, Prices, is_of_unit};
use serde_json::{Map, Value};

use crate::commands;

/// Largest file that is read; LiteLLM's map has 3 MB.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// Wrong lines that are told of a file: whoever has more has the wrong file.
const MAX_ERRORS: usize = 20;

/// Where a table is installed for all users.
const FOR_ALL: &str = "/etc/hbpf/prices.tsv";

/// LiteLLM's prices are per token.
const MILLION: f64 = 1e6;

/// No price has more digits than that; what comes of counting in powers of two goes.
const DIGITS: f64 = 1e9;

/// LiteLLM's names for the prices of a token: of a prompt, of what is generated, and of what is read from a cache and written to
/// one.
const INPUT: &str = "input_cost_per_token";
const OUTPUT: &str = "output_cost_per_token";
const AUDIO_INPUT: &str = "input_cost_per_audio_token";
const AUDIO_OUTPUT: &str = "output_cost_per_audio_token";
const IMAGE_INPUT: &str = "input_cost_per_image_token";
const IMAGE_OUTPUT: &str = "output_cost_per_image_token";
const READ: &str = "cache_read_input_token_cost";
const WRITE: &str = "cache_creation_input_token_cost";

/// From how many tokens on LiteLLM's map has prices of long prompts, the shortest first.
const LONG: [(u64, &str); 6] =
    [(100_000, "100k"), (128_000, "128k"), (200_000, "200k"), (256_000, "256k"), (272_000, "272k"), (512_000, "512k")];

/// What stands behind the names of LiteLLM's prices, and behind models' names here, for each tier.
const TIERS: [(&str, &str); 4] = [("", ""), ("_batches", " batch"), ("_flex", " flex"), ("_priority", " priority")];

/// What is paid otherwise than by tokens of text, as LiteLLM calls it.
const NOT_TEXT: [&str; 6] =
    ["audio_speech", "audio_transcription", "image_edit", "image_generation", "realtime", "video_generation"];

/// LiteLLM's names for providers that hbpf can tell, and hbpf's. Vertex AI has many more, which begin alike.
const PROVIDERS: [(&str, &str); 29] = [
    ("anthropic", "anthropic"),
    ("azure", "azure.ai.openai"),
    ("azure_ai", "azure.ai.inference"),
    ("azure_text", "azure.ai.openai"),
    ("bedrock", "aws.bedrock"),
    ("bedrock_converse", "aws.bedrock"),
    ("bedrock_mantle", "aws.bedrock"),
    ("cerebras", "cerebras"),
    ("codestral", "mistral_ai"),
    ("cohere", "cohere"),
    ("cohere_chat", "cohere"),
    ("deepseek", "deepseek"),
    ("fireworks_ai", "fireworks"),
    ("fireworks_ai-embedding-models", "fireworks"),
    ("gemini", "gcp.gemini"),
    ("groq", "groq"),
    ("huggingface", "huggingface"),
    ("mistral", "mistral_ai"),
    ("moonshot", "moonshot_ai"),
    ("nvidia_nim", "nvidia"),
    ("openai", "openai"),
    ("openrouter", "openrouter"),
    ("perplexity", "perplexity"),
    ("sambanova", "sambanova"),
    ("text-completion-openai", "openai"),
    ("together_ai", "together"),
    ("vertex_ai", "gcp.vertex_ai"),
    ("watsonx", "ibm.watsonx.ai"),
    ("xai", "x_ai"),
];

/// The prices that hold: those of a file, over those of the table that is installed, over those that come with hbpf. A table
/// that is installed and cannot be read is told of, and does without.
pub(crate) fn load(file: Option<&Path>) -> Result<Arc<Prices>> {
    load_over(file, installed().as_deref())
}

fn load_over(file: Option<&Path>, installed: Option<&Path>) -> Result<Arc<Prices>> {
    let mut prices = Arc::clone(Prices::built_in());
    if let Some(path) = installed {
        match read(path) {
            Ok(table) => prices = Arc::new(table.over(prices)),
            Err(error) => commands::complain(&error.context(format!("{} is left out", path.display()))),
        }
    }
    if let Some(path) = file {
        let table = read(path).with_context(|| format!("--prices {}", path.display()))?;
        prices = Arc::new(table.over(prices));
    }
    Ok(prices)
}

/// The prices of a file.
pub(crate) fn read(path: &Path) -> Result<Prices> {
    let checked = check(&text_of(path)?);
    checked.errors.into_iter().next().map_or(Ok(checked.prices), Err)
}

/// What a file of prices has, and what is wrong with it.
pub(crate) struct Checked {
    pub(crate) prices: Prices,
    /// It has no prices then that can be used.
    pub(crate) errors: Vec<anyhow::Error>,
    /// What does no harm and may surprise.
    pub(crate) remarks: Vec<String>,
    /// The same as a table in hbpf's form.
    pub(crate) table: String,
}

/// The text of a file that may have prices.
pub(crate) fn text_of(path: &Path) -> Result<String> {
    let mut text = String::new();
    let file = File::open(path).context("cannot be opened")?;
    file.take(MAX_BYTES + 1).read_to_string(&mut text).context("cannot be read")?;
    ensure!(text.len() as u64 <= MAX_BYTES, "has more than {} MiB, which no table of prices has", MAX_BYTES >> 20);
    Ok(text)
}

/// Looks at all of a file's text.
pub(crate) fn check(text: &str) -> Checked {
    let checked = if text.trim_start().starts_with('{') { check_litellm(text) } else { check_own(text) };
    if checked.errors.is_empty() && checked.prices.iter().next().is_none() {
        return Checked { errors: vec![anyhow!("has no price in it")], ..checked };
    }
    checked
}

fn check_own(text: &str) -> Checked {
    let (prices, errors) = Prices::check(text, MAX_ERRORS);
    let mut remarks: Vec<String> = Vec::new();
    let foreign = prices.iter().filter_map(|(provider, ..)| Some((provider, ours(provider)?)));
    for (theirs, ours) in
        foreign.filter(|(theirs, ours)| theirs != ours && PROVIDERS.iter().all(|(_, of)| of != theirs))
    {
        let remark = format!("no exchange is with {theirs}, which is {ours} here");
        if remarks.last() != Some(&remark) {
            remarks.push(remark);
        }
    }
    let errors = errors.into_iter().map(|error: PriceError| error.into()).collect();
    Checked { prices, errors, remarks, table: text.to_owned() }
}

fn check_litellm(text: &str) -> Checked {
    let mut checked = Checked { prices: Prices::default(), errors: vec![], remarks: vec![], table: String::new() };
    let map: Map<String, Value> = match serde_json::from_str(text).context("is no JSON object") {
        Ok(map) => map,
        Err(error) => return Checked { errors: vec![error], ..checked },
    };
    let mut entries = Vec::new();
    let mut left_out = 0;
    for (name, value) in &map {
        match (Entry::of(name, value), unit_price(name, value)) {
            (Some(entry), _) => entries.push(entry),
            (None, Some((provider, model, price))) => checked.prices.insert(provider, &model, Price::flat(price)),
            (None, None) => left_out += 1,
        }
    }
    // Where several are of the same model, the one that LiteLLM has without a way to it holds.
    entries.sort_by_key(|entry| !entry.has_prefix);
    for entry in entries {
        for (suffix, price) in entry.prices() {
            checked.prices.insert(entry.provider, &format!("{}{suffix}", entry.model), price);
        }
    }
    if checked.prices.iter().next().is_none() {
        let what = "has no model with prices per token in it; LiteLLM's map, or a table of hbpf's, is expected";
        return Checked { errors: vec![anyhow!(what)], ..checked };
    }
    if left_out > 0 {
        checked.remarks.push(format!(
            "{left_out} entries are left out: they have no price per token of text, image, second or search, or are of providers that hbpf does not tell"
        ));
    }
    checked.table = format!("# Made of LiteLLM's map by hbpf {}.\n{COLUMNS}", env!("CARGO_PKG_VERSION"));
    checked.prices.iter().for_each(|(provider, model, price)| write_row(&mut checked.table, provider, model, price));
    checked
}

/// hbpf's name for one of LiteLLM's providers.
fn ours(provider: &str) -> Option<&'static str> {
    let family = if provider.starts_with("vertex_ai") { "vertex_ai" } else { provider };
    PROVIDERS.iter().find(|(theirs, _)| *theirs == family).map(|(_, ours)| *ours)
}

/// Provider, model with the unit behind it, and price of what is paid otherwise than by tokens: images whatever their size, sound
/// by the second, searches.
fn unit_price(name: &str, value: &Value) -> Option<(&'static str, String, f64)> {
    let fields = value.as_object()?;
    let cost = |name: &str| fields.get(name).and_then(Value::as_f64).filter(|cost| *cost > 0.0);
    let provider = ours(fields.get("litellm_provider")?.as_str()?)?;
    let model =
        name.split_once('/').filter(|(family, _)| ours(family) == Some(provider)).map_or(name, |(_, model)| model);
    if cost(INPUT).is_some() || cost(OUTPUT).is_some() || model.contains('/') {
        return None;
    }
    let (unit, price) = match fields.get("mode")?.as_str()? {
        "image_generation" => ("image", cost("output_cost_per_image").or_else(|| cost("input_cost_per_image"))?),
        "audio_transcription" => ("second", cost("input_cost_per_second")?),
        "rerank" => ("search", cost("input_cost_per_query")?),
        _ => return None,
    };
    Some((provider, format!("{model} {unit}"), rounded(price)))
}

/// A model in LiteLLM's map.
struct Entry<'a> {
    provider: &'static str,
    model: &'a str,
    /// The provider stood before the model's name.
    has_prefix: bool,
    fields: &'a Map<String, Value>,
}

impl<'a> Entry<'a> {
    /// Of entries that can be priced by tokens.
    fn of(name: &'a str, value: &'a Value) -> Option<Self> {
        let fields = value.as_object()?;
        let provider = ours(fields.get("litellm_provider")?.as_str()?)?;
        let prefix = name.split_once('/').filter(|(family, _)| ours(family) == Some(provider));
        let (model, has_prefix) = prefix.map_or((name, false), |(_, model)| (model, true));
        let entry = Self { provider, model, has_prefix, fields };
        // There regions and kinds of deployments stand before names, which nothing on the wire tells.
        let is_elsewhere = model.contains('/') && (provider == "aws.bedrock" || provider.starts_with("azure."));
        let is_text = !NOT_TEXT.contains(&fields.get("mode").and_then(Value::as_str).unwrap_or_default());
        // These say how many tokens were sound, or images.
        let tells = provider == "openai" || provider.starts_with("azure.");
        let has_others = tells && [AUDIO_INPUT, IMAGE_OUTPUT].iter().any(|kind| entry.cost(kind, "", "").is_some());
        // What it generates may be paid otherwise than as text.
        let differs =
            |kind: &str| entry.cost(kind, "", "").is_some_and(|cost| Some(cost) != entry.cost(OUTPUT, "", ""));
        let generates_text = !differs(AUDIO_OUTPUT) && !differs(IMAGE_OUTPUT);
        let (input, output) = (entry.cost(INPUT, "", "")?, entry.output("").unwrap_or(0.0));
        // Where all is 0 nothing is known: nobody gives it away.
        let is_known = is_text && generates_text || has_others;
        (is_known && !is_elsewhere && input + output > 0.0).then_some(entry)
    }

    /// A price per million tokens: of what, for how long or of how long prompts, in which tier.
    fn cost(&self, name: &str, long: &str, tier: &str) -> Option<f64> {
        let cost = self.fields.get(&format!("{name}{long}{tier}"))?.as_f64()?;
        Some(rounded(cost * MILLION)).filter(|cost| cost.is_finite() && *cost >= 0.0)
    }

    /// The price of what is generated: all of it are images where there is no other.
    fn output(&self, tier: &str) -> Option<f64> {
        self.cost(OUTPUT, "", tier).or_else(|| self.cost(IMAGE_OUTPUT, "", tier))
    }

    /// The prices of its tiers, each with what stands behind the model's name.
    fn prices(&self) -> Vec<(&'static str, Price)> {
        let standard = self.price("", None);
        let mut prices: Vec<_> =
            TIERS.iter().filter_map(|(theirs, ours)| Some((*ours, self.price(theirs, standard.as_ref())?))).collect();
        let fast = self.fields.get("provider_specific_entry").and_then(|entry| entry.get("fast")?.as_f64());
        for (suffix, input, output) in
            [(" audio", AUDIO_INPUT, AUDIO_OUTPUT), (" image_tokens", IMAGE_INPUT, IMAGE_OUTPUT)]
        {
            let Some(standard) = &standard else { continue };
            let input = self.cost(input, "", "").unwrap_or(standard.input);
            let output = self.cost(output, "", "").unwrap_or(standard.output);
            if (input, output) != (standard.input, standard.output) {
                prices.push((suffix, Price { output, ..Price::flat(input) }));
            }
        }
        if let (Some(standard), Some(fast)) = (&standard, fast.filter(|fast| *fast > 0.0)) {
            prices.push((" fast", times(standard, fast)));
        }
        prices
    }

    /// Those of one tier. What that has no price of its own for costs as much more or less than in the standard one as its input.
    fn price(&self, tier: &str, standard: Option<&Price>) -> Option<Price> {
        let input = self.cost(INPUT, "", tier)?;
        let usual = standard.map(|standard| times(standard, ratio(input, standard.input)));
        let usual = usual.as_ref();
        let or_usual = |own: Option<f64>, of: fn(&Price) -> Option<f64>| own.or_else(|| of(usual?));
        let write_long = self.cost(WRITE, "_above_1hr", tier).or_else(|| self.cost(WRITE, "_above_12hr", tier));
        let long = LONG.iter().find_map(|(beyond, name)| {
            let above = format!("_above_{name}_tokens");
            Some(LongPrice {
                beyond: *beyond,
                input: self.cost(INPUT, &above, tier)?,
                output: self.cost(OUTPUT, &above, tier)?,
                cache_read: self.cost(READ, &above, tier),
            })
        });
        Some(Price {
            input,
            output: or_usual(self.output(tier), |usual| Some(usual.output)).unwrap_or(0.0),
            cache_read: or_usual(self.cost(READ, "", tier), |usual| usual.cache_read),
            cache_write: or_usual(self.cost(WRITE, "", tier), |usual| usual.cache_write),
            cache_write_long: or_usual(write_long, |usual| usual.cache_write_long),
            long: long.or_else(|| usual?.long),
        })
    }
}

fn ratio(price: f64, standard: f64) -> f64 {
    if standard > 0.0 { price / standard } else { 1.0 }
}

fn times(price: &Price, factor: f64) -> Price {
    let scale = |price: f64| rounded(price * factor);
    Price {
        input: scale(price.input),
        output: scale(price.output),
        cache_read: price.cache_read.map(scale),
        cache_write: price.cache_write.map(scale),
        cache_write_long: price.cache_write_long.map(scale),
        long: price.long.map(|long| LongPrice {
            beyond: long.beyond,
            input: scale(long.input),
            output: scale(long.output),
            cache_read: long.cache_read.map(scale),
        }),
    }
}

fn rounded(price: f64) -> f64 {
    (price * DIGITS).round() / DIGITS
}

/// What the fields of a table's lines are.
pub(crate) const COLUMNS: &str =
    "# provider\tmodel\tinput\toutput\tcache_read\tcache_write\tcache_write_1h\tbeyond\tinput\toutput\tcache_read\n";

/// A line of a table, as [`Prices::parse`] reads it.
pub(crate) fn write_row(text: &mut String, provider: &str, model: &str, price: &Price) {
    let long = price.long.as_ref();
    let mut numbers = vec![
        Some(price.input),
        Some(price.output),
        price.cache_read,
        price.cache_write,
        price.cache_write_long,
        long.map(|long| long.beyond as f64),
        long.map(|long| long.input),
        long.map(|long| long.output),
        long.and_then(|long| long.cache_read),
    ];
    if is_of_unit(model) {
        numbers.truncate(1);
    }
    while numbers.last() == Some(&None) {
        numbers.pop();
    }
    let _ = write!(text, "{provider}\t{model}");
    for number in numbers {
        let _ = match number {
            Some(number) => write!(text, "\t{}", rounded(number)),
            None => write!(text, "\t-"),
        };
    }
    text.push('\n');
}

/// Where the table that all commands load is installed: for all by root, else for oneself.
pub(crate) fn place() -> Result<PathBuf> {
    place_of(nix::unistd::geteuid().is_root(), |name| env::var_os(name).map(PathBuf::from))
}

/// The table that is installed, if one is.
fn installed() -> Option<PathBuf> {
    [place().ok(), Some(PathBuf::from(FOR_ALL))].into_iter().flatten().find(|path| path.exists())
}

fn place_of(is_root: bool, variable: impl Fn(&str) -> Option<PathBuf>) -> Result<PathBuf> {
    // Root does not go by variables that others may have set.
    if is_root {
        return Ok(FOR_ALL.into());
    }
    let absolute = |name| variable(name).filter(|path| path.is_absolute());
    let config = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")));
    Ok(config.context("neither XDG_CONFIG_HOME nor HOME says where to install")?.join("hbpf/prices.tsv"))
}

/// Puts a table in its place, all of it or nothing.
pub(crate) fn install(table: &str, place: &Path) -> Result<()> {
    let directory = place.parent().context("has no directory")?;
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let beside = place.with_extension(format!("{}.new", std::process::id()));
    let write = || {
        // A file that stands there is another's, or was left behind; through a link nothing is written.
        let mut file = File::options().write(true).create_new(true).open(&beside)?;
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.write_all(table.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, place)
    };
    write().inspect_err(|_| drop(fs::remove_file(&beside))).with_context(|| format!("cannot write {}", place.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hbpf_core::exchange::ServiceTier;

    const MAP: &str = r#"{
        "sample_spec": {"litellm_provider": "one of ...", "input_cost_per_token": "0"},
        "dall-x": {"litellm_provider": "openai", "mode": "image_generation", "input_cost_per_image": 0.04},
        "1024-x-1024/dall-x": {"litellm_provider": "openai", "mode": "image_generation", "input_cost_per_image": 0.05},
        "groq/whisper-x": {"litellm_provider": "groq", "mode": "audio_transcription", "input_cost_per_second": 3e-05,
            "output_cost_per_second": 0.0},
        "rank-x": {"litellm_provider": "cohere", "mode": "rerank", "input_cost_per_query": 0.002, "input_cost_per_token": 0.0},
        "gpt-4o": {"litellm_provider": "openai", "input_cost_per_token": 1e-06, "output_cost_per_token": 4e-06, "mode": "chat",
            "cache_read_input_token_cost": 5e-07, "input_cost_per_token_priority": 2e-06, "output_cost_per_token_priority": 9e-06,
            "input_cost_per_token_batches": 5e-07},
        "gemini/gemini-x": {"litellm_provider": "gemini", "input_cost_per_token": 2e-06, "output_cost_per_token": 12e-06,
            "input_cost_per_token_above_200k_tokens": 4e-06, "output_cost_per_token_above_200k_tokens": 18e-06,
            "input_cost_per_token_flex": 1e-06},
        "vertex_ai/claude-x": {"litellm_provider": "vertex_ai-anthropic_models", "input_cost_per_token": 3e-06,
            "output_cost_per_token": 15e-06, "cache_read_input_token_cost": 3e-07, "cache_creation_input_token_cost": 3.75e-06,
            "cache_creation_input_token_cost_above_1hr": 6e-06},
        "vertex_ai/meta/llama-x": {"litellm_provider": "vertex_ai-new_models", "input_cost_per_token": 1e-06, "output_cost_per_token": 1e-06},
        "claude-x": {"litellm_provider": "anthropic", "input_cost_per_token": 3e-06, "output_cost_per_token": 15e-06,
            "provider_specific_entry": {"us": 1.1, "fast": 2.0}},
        "groq/openai/gpt-oss-20b": {"litellm_provider": "groq", "input_cost_per_token": 1e-07, "output_cost_per_token": 5e-07},
        "perplexity/sonar": {"litellm_provider": "perplexity", "input_cost_per_token": 1e-06, "output_cost_per_token": 1e-06},
        "perplexity/perplexity/sonar": {"litellm_provider": "perplexity", "input_cost_per_token": 2e-06, "output_cost_per_token": 2e-06},
        "bedrock_mantle/openai.gpt-x": {"litellm_provider": "bedrock_mantle", "input_cost_per_token": 2.2e-06, "output_cost_per_token": 1e-06},
        "openai.gpt-x": {"litellm_provider": "bedrock_converse", "input_cost_per_token": 2e-06, "output_cost_per_token": 1e-06},
        "bedrock/us-gov-west-1/openai.gpt-x": {"litellm_provider": "bedrock", "input_cost_per_token": 3e-06, "output_cost_per_token": 1e-06},
        "azure/eu/gpt-4o": {"litellm_provider": "azure", "input_cost_per_token": 3e-06, "output_cost_per_token": 1e-06},
        "elsewhere/gpt-4o": {"litellm_provider": "elsewhere", "input_cost_per_token": 3e-06, "output_cost_per_token": 1e-06},
        "gpt-realtime": {"litellm_provider": "openai", "mode": "realtime", "input_cost_per_token": 4e-06, "output_cost_per_token": 16e-06},
        "draw-x": {"litellm_provider": "openai", "mode": "image_generation", "input_cost_per_token": 5e-06, "input_cost_per_image_token": 1e-05,
            "output_cost_per_image_token": 4e-05},
        "gemini/draw-x": {"litellm_provider": "gemini", "mode": "image_generation", "input_cost_per_token": 5e-06, "output_cost_per_image_token": 4e-05},
        "gpt-audio": {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 4e-06, "output_cost_per_token": 16e-06,
            "output_cost_per_audio_token": 8e-05},
        "free": {"litellm_provider": "openai", "input_cost_per_token": 0, "output_cost_per_token": 0},
        "image": {"litellm_provider": "openai", "input_cost_per_pixel": 1}
    }"#;

    /// What of LiteLLM's map is the table that comes with hbpf, behind its head.
    const TABLE: &str = r"anthropic	claude-x	3	15
anthropic	claude-x fast	6	30
aws.bedrock	openai.gpt-x	2	1
cohere	rank-x search	0.002
gcp.gemini	gemini-x	2	12	-	-	-	200000	4	18
gcp.gemini	gemini-x flex	1	6	-	-	-	200000	2	9
gcp.vertex_ai	claude-x	3	15	0.3	3.75	6
gcp.vertex_ai	meta/llama-x	1	1
groq	openai/gpt-oss-20b	0.1	0.5
groq	whisper-x second	0.00003
openai	dall-x image	0.04
openai	draw-x	5	40
openai	draw-x image_tokens	10	40
openai	gpt-4o	1	4	0.5
openai	gpt-4o batch	0.5	2	0.25
openai	gpt-4o priority	2	9	1
perplexity	perplexity/sonar	2	2
perplexity	sonar	1	1
";

    fn rows(prices: &Prices) -> String {
        let mut text = String::new();
        prices.iter().for_each(|(provider, model, price)| write_row(&mut text, provider, model, price));
        text
    }

    #[test]
    fn litellms_map_is_read_as_it_is() {
        let checked = check(MAP);
        assert_eq!(rows(&checked.prices), TABLE);
        assert_eq!(
            checked.remarks,
            [
                "10 entries are left out: they have no price per token of text, image, second or search, or are of providers that hbpf does not tell"
            ]
        );
        // What is installed of it is the same.
        assert_eq!(check(&checked.table).prices, checked.prices);
        let price = checked.prices.price("gcp.vertex_ai", "claude-x@20260101", ServiceTier::Standard).unwrap();
        assert_eq!(price.cache_write_long, Some(6.0));
    }

    #[test]
    fn the_built_in_table_is_in_its_own_form() {
        let text = include_str!("../../hbpf-core/src/prices/table.tsv");
        assert!(text.ends_with(&rows(Prices::built_in())), "`hbpf prices --only --prices FILE` writes it otherwise");
        assert!(check(text).errors.is_empty() && check(text).remarks.is_empty());
        assert_eq!(Prices::built_in().as_of(), Some("2026-11-20"));
        for (provider, ..) in Prices::built_in().iter() {
            assert!(PROVIDERS.iter().any(|(_, ours)| *ours == provider), "{provider}");
        }
    }

    #[test]
    fn what_is_no_table_is_refused_in_one_line() {
        for (text, expected) in [
            ("{", "is no JSON object: EOF while parsing an object at line 1 column 1"),
            ("[1]", "line 1: a provider, a model and its prices are expected, with tabs between them"),
            ("{}", "has no model with prices per token in it; LiteLLM's map, or a table of hbpf's, is expected"),
            ("# nothing\n", "has no price in it"),
        ] {
            assert_eq!(format!("{:#}", check(text).errors[0]), expected, "{text}");
        }
        assert_eq!(check("x\tm\nx\tm\t1\t2\nx\tm\t1").errors.len(), 2, "all that is wrong");
        assert_eq!(read(Path::new("/nonexistent")).unwrap_err().to_string(), "cannot be opened");
    }

    #[test]
    fn an_installed_table_holds_until_a_file_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("etc/hbpf/prices.tsv");
        install("openai\tgpt-4o\t7\t8\nopenai\tmine\t1\t1\n", &place).unwrap();
        install("openai\tgpt-4o\t9\t8\nopenai\tmine\t1\t1\n", &place).unwrap();
        assert_eq!(fs::read_dir(place.parent().unwrap()).unwrap().count(), 1, "nothing is left behind");
        assert_eq!(fs::metadata(&place).unwrap().permissions().mode() & 0o777, 0o644);
        let input =
            |prices: &Prices, model| prices.price("openai", model, ServiceTier::Standard).map(|price| price.input);
        let prices = load_over(None, Some(&place)).unwrap();
        assert_eq!([input(&prices, "gpt-4o"), input(&prices, "gpt-4.1")], [Some(9.0), Some(2.0)]);
        let ours = directory.path().join("ours.tsv");
        fs::write(&ours, "openai\tgpt-4o\t3\t3\n").unwrap();
        let prices = load_over(Some(&ours), Some(&place)).unwrap();
        assert_eq!([input(&prices, "gpt-4o"), input(&prices, "mine")], [Some(3.0), Some(1.0)]);
        // One that is broken stops nothing, a file that was named and is broken does.
        fs::write(&place, "openai\n").unwrap();
        assert_eq!(input(&load_over(None, Some(&place)).unwrap(), "gpt-4.1"), Some(2.0));
        let error = load_over(Some(&place), None).unwrap_err();
        assert!(
            format!("{error:#}").ends_with(
                "prices.tsv: line 1: a provider, a model and its prices are expected, with tabs between them"
            ),
            "{error:#}"
        );
        assert!(install("", Path::new("/proc/hbpf/prices.tsv")).is_err());
    }

    #[test]
    fn where_a_table_is_installed() {
        let none = |_: &str| None;
        assert_eq!(place_of(true, |_| Some("/tmp".into())).unwrap(), Path::new("/etc/hbpf/prices.tsv"));
        let of = |name: &'static str, value: &'static str| move |asked: &str| (asked == name).then(|| value.into());
        assert_eq!(place_of(false, of("XDG_CONFIG_HOME", "/c")).unwrap(), Path::new("/c/hbpf/prices.tsv"));
        assert_eq!(place_of(false, of("HOME", "/h")).unwrap(), Path::new("/h/.config/hbpf/prices.tsv"));
        assert!(place_of(false, none).is_err() && place_of(false, of("XDG_CONFIG_HOME", "c")).is_err());
    }
}
