//! What tokens cost: list prices, by provider, model and tier.
//!
//! A list price is an estimate of what is paid: what was agreed upon, reserved capacity and fees for tools are on no wire. Where
//! the wire tells what an exchange has cost, that holds.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use crate::exchange::{Api, Exchange, ServiceTier, Usage};

/// Prices that come with the program; its head says of what day they are, and whose.
const TABLE: &str = include_str!("prices/table.tsv");

/// What the line with the day begins with.
const AS_OF: &str = "# as of ";

/// Tiers that have prices of their own, by the word that stands behind a model's name in a table.
pub const TIERS: [(ServiceTier, &str); 4] = [
    (ServiceTier::Batch, "batch"),
    (ServiceTier::Fast, "fast"),
    (ServiceTier::Flex, "flex"),
    (ServiceTier::Priority, "priority"),
];

/// What stands behind a model's name in the rows with the prices of tokens that are sound, and images.
pub const KINDS: [&str; 2] = [AUDIO, IMAGE_TOKENS];
const AUDIO: &str = "audio";
const IMAGE_TOKENS: &str = "image_tokens";

/// What is paid for otherwise than by tokens, by the word that stands behind a model's name in a table. Prices are of one.
pub const UNITS: [&str; 3] = ["image", "second", "search"];

/// Most lines of a table that are read: nobody has so many models.
const MAX_LINES: usize = 100_000;

/// Numbers that a line has at most.
const NUMBERS: usize = 9;

/// Prices are per so many tokens.
const MILLION: f64 = 1e6;

/// What stands for a provider in rows of GPUs, which have a price of an hour.
const GPU: &str = "gpu";

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
    /// The same for an hour or more; the price of those for five minutes where there is none.
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
    /// Of one thing of a kind, whatever that is.
    pub fn flat(price: f64) -> Self {
        Self { input: price, output: 0.0, cache_read: None, cache_write: None, cache_write_long: None, long: None }
    }

    /// The same where those that are sound, and images, have prices of their own. What of them came from a cache is not told apart, so that
    /// these count as new.
    fn of_kinds(&self, of_sound: Option<&Self>, of_images: Option<&Self>, usage: &Usage) -> Option<f64> {
        let mut sum = self.of(usage)?;
        // What is text, unless it is told to be something else.
        let mut input = usage.input.unwrap_or(0).saturating_sub(usage.cached_input.unwrap_or(0));
        let mut output = usage.output.unwrap_or(0);
        let kinds =
            [(of_sound, usage.audio_input, usage.audio_output), (of_images, usage.image_input, usage.image_output)];
        for (price, taken_in, given_out) in kinds {
            let Some(price) = price else { continue };
            let taken_in = taken_in.unwrap_or(0).min(input);
            let given_out = given_out.unwrap_or(0).min(output);
            (input, output) = (input - taken_in, output - given_out);
            let dearer = taken_in as f64 * (price.input - self.input) + given_out as f64 * (price.output - self.output);
            sum += dearer / MILLION;
        }
        Some(sum)
    }

    /// What so many tokens cost; `None` where it is not known how many there were.
    pub fn of(&self, usage: &Usage) -> Option<f64> {
        let input = usage.billed_input.or(usage.input)?;
        // Vectors have no output.
        let output = usage.billed_output.or(usage.output).or((self.output == 0.0).then_some(0))?;
        let long = self.long.as_ref().filter(|long| usage.input.unwrap_or(input) > long.beyond);
        let (price_in, price_out) = long.map_or((self.input, self.output), |long| (long.input, long.output));
        // What long prompts have no price of their own for is dearer by as much as they are.
        let scale = if self.input > 0.0 { price_in / self.input } else { 1.0 };
        let scaled = |price: Option<f64>| price.map(|price| price * scale);
        let price_read = long.and_then(|long| long.cache_read).or(scaled(self.cache_read)).unwrap_or(price_in);
        let price_write = scaled(self.cache_write).unwrap_or(price_in);
        let price_write_long = scaled(self.cache_write_long).unwrap_or(price_write);
        let read = usage.cached_input.unwrap_or(0).min(input);
        let written = usage.cache_creation_input.unwrap_or(0).min(input - read);
        let written_long = usage.cache_creation_long.unwrap_or(0).min(written);
        let sum = (input - read - written) as f64 * price_in
            + read as f64 * price_read
            + (written - written_long) as f64 * price_write
            + written_long as f64 * price_write_long
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

/// A table of prices, and others below it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prices {
    /// By provider and model, with a tab between them, and the tier behind a space.
    models: BTreeMap<String, Price>,
    as_of: Option<String>,
    below: Option<Arc<Prices>>,
}

impl Prices {
    /// Those that come with the program.
    pub fn built_in() -> &'static Arc<Self> {
        static BUILT_IN: LazyLock<Arc<Prices>> =
            LazyLock::new(|| Arc::new(Prices::parse(TABLE).expect("a test reads it")));
        &BUILT_IN
    }

    /// Reads a table: fields between tabs, as the one that comes with the program explains them.
    ///
    /// # Errors
    ///
    /// Which line is none of such a table, and what is wrong with it: the first, if there are several.
    pub fn parse(text: &str) -> Result<Self, PriceError> {
        let (prices, errors) = Self::check(text, 1);
        errors.into_iter().next().map_or(Ok(prices), Err)
    }

    /// The same, with as many as `most` of the lines that are wrong, and the prices of the others.
    pub fn check(text: &str, most: usize) -> (Self, Vec<PriceError>) {
        let (mut prices, mut errors) = (Self::default(), Vec::new());
        for (line, content) in (1..).zip(text.lines()) {
            if errors.len() == most {
                break;
            }
            if line > MAX_LINES {
                errors.push(PriceError { line, what: "there are more lines than any table has".to_owned() });
                break;
            }
            if let Some(day) = content.strip_prefix(AS_OF) {
                prices.as_of = Some(day.trim().to_owned()).filter(|day| !day.is_empty());
            }
            if content.trim().is_empty() || content.starts_with('#') {
                continue;
            }
            match parse_line(content) {
                Ok((key, price)) => {
                    prices.models.insert(key, price);
                }
                Err(what) => errors.push(PriceError { line, what }),
            }
        }
        (prices, errors)
    }

    /// Adds a model's price, in place of one that there may be. A tier stands behind the name and a space.
    pub fn insert(&mut self, provider: &str, model: &str, price: Price) {
        self.models.insert(key(provider, model), price);
    }

    /// Has another table hold for the models that this one does not have.
    #[must_use]
    pub fn over(self, below: Arc<Self>) -> Self {
        let below = match &self.below {
            None => below,
            Some(own) => Arc::new((**own).clone().over(below)),
        };
        Self { below: Some(below), ..self }
    }

    /// This table, and those below it.
    pub fn tables(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |table| table.below.as_deref())
    }

    /// Of what day they are, as the table says. Tables below have their own.
    pub fn as_of(&self) -> Option<&str> {
        self.as_of.as_deref()
    }

    /// Provider, model and price of all that this table has itself, sorted. A tier stands behind the model's name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, &Price)> {
        self.models.iter().filter_map(|(key, price)| {
            let (provider, model) = key.split_once('\t')?;
            Some((provider, model, price))
        })
    }

    /// The price of a model in a tier, by its name or, without what providers add to names, by what remains.
    ///
    /// A table that has the model has the last word. Where it has no price for the tier, that of the standard one stands for
    /// tiers that are cheaper, and there is none for others.
    pub fn price(&self, provider: &str, model: &str, tier: ServiceTier) -> Option<&Price> {
        self.with_kinds(provider, model, tier).map(|(price, _)| price)
    }

    /// The same with the prices of [`KINDS`] of tokens, of the same list in the same table.
    fn with_kinds(
        &self,
        provider: &str,
        model: &str,
        tier: ServiceTier,
    ) -> Option<(&Price, [Option<&Price>; KINDS.len()])> {
        let model = model.to_ascii_lowercase();
        let lists = sellers(provider, &model).into_iter().flatten();
        let mut tables = lists.flat_map(|seller| self.tables().map(move |table| (seller, table)));
        tables.find_map(|(seller, table)| {
            let price = table.own_price(seller, &model, tier)?;
            Some(price.map(|price| (price, KINDS.map(|kind| table.own_row(seller, &model, kind)))))
        })?
    }

    /// Whether this table itself has a model, so that those below it are not asked.
    pub fn has(&self, provider: &str, model: &str) -> bool {
        let model = model.split(' ').next().unwrap_or_default();
        self.own_price(provider, &model.to_ascii_lowercase(), ServiceTier::Standard).is_some()
    }

    /// What this table itself says, if it has the model.
    fn own_price(&self, seller: &str, model: &str, tier: ServiceTier) -> Option<Option<&Price>> {
        let find = |suffix: &str| names(model).find_map(|name| self.models.get(&format!("{seller}\t{name}{suffix}")));
        let word = TIERS.iter().find(|(known, _)| *known == tier).map(|(_, word)| *word);
        if let Some(price) = word.and_then(|word| find(&format!(" {word}"))) {
            return Some(Some(price));
        }
        let standard = find("")?;
        let is_no_dearer = matches!(tier, ServiceTier::Standard | ServiceTier::Flex | ServiceTier::Batch);
        Some(is_no_dearer.then_some(standard))
    }

    /// What a GPU of this name costs an hour, in US dollars: by the row of its name, or that of all others, which is `*`. Nothing is
    /// known unless a user says it.
    pub fn gpu_hour(&self, name: &str) -> Option<f64> {
        let row = |table: &Self, name: &str| table.models.get(&key(GPU, name)).map(|price| price.input);
        self.tables().find_map(|table| row(table, name).or_else(|| row(table, "*")))
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
        let tier = exchange.tier.unwrap_or(ServiceTier::Standard);
        let models = [exchange.response_model.as_ref(), exchange.model.as_ref()].into_iter().flatten();
        let provider = exchange.provider.as_str();
        let price = models.clone().find_map(|model| self.with_kinds(provider, model.as_str(), tier));
        // Of an answer that was not waited for, what had come of it is paid.
        let output = usage.output.or(Some(exchange.estimated_output).filter(|tokens| *tokens > 0));
        // What an API of images has generated are images, unless it says how many were.
        let image_output = usage.image_output.or(output.filter(|_| exchange.api == Api::Image));
        let usage_paid = Usage { output, image_output, ..*usage };
        let by_tokens = price.and_then(|(price, [sound, images])| price.of_kinds(sound, images, &usage_paid));
        let by_units = || models.clone().find_map(|model| self.of_units(provider, model.as_str(), usage));
        by_tokens.or_else(by_units).map(|usd| Cost { usd, is_estimate: true })
    }

    /// What so many images, seconds of sound and searches cost.
    fn of_units(&self, provider: &str, model: &str, usage: &Usage) -> Option<f64> {
        let [image, second, search] = UNITS;
        let counts = [
            (image, usage.images.map(|images| images as f64)),
            (second, usage.audio_milliseconds.map(|milliseconds| milliseconds as f64 / 1000.0)),
            (search, usage.searches.map(|searches| searches as f64)),
        ];
        let cost = |(unit, count): (&str, Option<f64>)| Some(count? * self.row(provider, model, unit)?.input);
        counts.into_iter().filter_map(cost).reduce(|sum, cost| sum + cost)
    }

    /// A model's row with that word behind its name.
    fn row(&self, provider: &str, model: &str, word: &str) -> Option<&Price> {
        let model = model.to_ascii_lowercase();
        let mut sellers = sellers(provider, &model).into_iter().flatten();
        sellers.find_map(|seller| self.tables().find_map(|table| table.own_row(seller, &model, word)))
    }

    /// The same of this table itself.
    fn own_row(&self, seller: &str, model: &str, word: &str) -> Option<&Price> {
        names(model).find_map(|name| self.models.get(&format!("{seller}\t{name} {word}")))
    }
}

fn key(provider: &str, model: &str) -> String {
    let mut key = format!("{provider}\t{model}");
    key.make_ascii_lowercase();
    key
}

/// Whether the row of that name has the price of a unit, rather than of tokens.
pub fn is_of_unit(model: &str) -> bool {
    model.split_once(' ').is_some_and(|(_, word)| UNITS.iter().any(|unit| unit.eq_ignore_ascii_case(word)))
}

fn parse_line(line: &str) -> Result<(String, Price), String> {
    let mut fields = line.split('\t').map(str::trim);
    let (Some(provider), Some(model)) = (fields.next(), fields.next()) else {
        return Err("a provider, a model and its prices are expected, with tabs between them".to_owned());
    };
    let rest: [&str; NUMBERS] = std::array::from_fn(|_| fields.next().unwrap_or("-"));
    if provider.is_empty() || model.is_empty() || fields.next().is_some() {
        return Err("a provider, a model and at most nine numbers are expected".to_owned());
    }
    let is_gpu = provider.eq_ignore_ascii_case(GPU);
    if let Some((_, word)) = model.split_once(' ').filter(|_| !is_gpu)
        && !is_of_unit(model)
        && !KINDS.iter().any(|kind| word.eq_ignore_ascii_case(kind))
        && !TIERS.iter().any(|(_, tier)| tier.eq_ignore_ascii_case(word))
    {
        let words = TIERS.map(|(_, word)| word).into_iter().chain(KINDS).chain(UNITS).collect::<Vec<_>>().join(", ");
        return Err(format!(
            "{word:?} is no tier, no unit and no kind of tokens: behind a model and a space there is one of {words}"
        ));
    }
    let number = |index: usize, name: &str| match rest[index] {
        "-" | "" => Ok(None),
        text => match text.parse::<f64>() {
            Ok(number) if number.is_finite() && number >= 0.0 => Ok(Some(number)),
            _ => Err(format!("{name} is {text:?}, which is no price")),
        },
    };
    if is_gpu {
        let per_hour = number(0, "the price of an hour")?.ok_or("the price of an hour is missing")?;
        return Ok((key(provider, model), Price::flat(per_hour)));
    }
    if is_of_unit(model) {
        let price = number(0, "the price of one")?.ok_or("the price of one is missing")?;
        return Ok((key(provider, model), Price::flat(price)));
    }
    let needed = |index, name: &str| number(index, name)?.ok_or_else(|| format!("{name} is missing"));
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
    Ok((key(provider, model), price))
}

/// Whose price lists hold for a model of this name at this provider, the nearest first.
fn sellers<'a>(provider: &'a str, model: &str) -> [Option<&'a str>; 3] {
    // A maker's list holds for those who resell at its prices.
    let resells =
        matches!(provider, "azure.ai.openai" | "azure.ai.inference" | "gcp.vertex_ai" | "gcp.gen_ai" | "aws.bedrock");
    let [nearest, maker] = match provider {
        _ if resells && names(model).any(|name| name.starts_with("claude")) => [None, Some("anthropic")],
        "azure.ai.inference" => [Some("azure.ai.openai"), Some("openai")],
        "azure.ai.openai" => [None, Some("openai")],
        "gcp.vertex_ai" | "gcp.gen_ai" => [None, Some("gcp.gemini")],
        _ => [None, None],
    };
    [Some(provider), nearest, maker]
}

/// A model's name, and what remains of it without what is added to names: a region, a maker, a version, a day, whose it is.
fn names(model: &str) -> impl Iterator<Item = &str> {
    const REGIONS: [&str; 6] = ["us.", "eu.", "apac.", "au.", "jp.", "global."];
    let model = model.strip_prefix("models/").unwrap_or(model);
    let local = REGIONS.iter().find_map(|region| model.strip_prefix(region)).unwrap_or(model);
    let unversioned = without_version(local);
    let undated = without_day(unversioned);
    let plain = undated.strip_prefix("anthropic.").unwrap_or(undated);
    let base = plain.strip_suffix("-latest").unwrap_or(plain);
    let mut last = "";
    let all = [model, without_owner(model), local, unversioned, undated, plain, base];
    all.into_iter().filter(move |name| std::mem::replace(&mut last, name) != *name)
}

/// `ft:x:whose:name:id` of OpenAI's tuned models, of which `ft:x` has the price.
fn without_owner(model: &str) -> &str {
    let Some(name) = model.strip_prefix("ft:") else { return model };
    name.find(':').map_or(model, |colon| &model[.."ft:".len() + colon])
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
    use crate::aggregate::tests::exchange;

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
        Prices::built_in().price(provider, model, ServiceTier::Standard)?.of(usage)
    }

    #[test]
    fn every_price_is_used() {
        let long = LongPrice { beyond: 100, input: 7.0, output: 8.0, cache_read: Some(9.0) };
        let price = Price {
            input: 1.0,
            output: 2.0,
            cache_read: Some(3.0),
            cache_write: Some(4.0),
            cache_write_long: Some(5.0),
            long: Some(long),
        };
        // One prompt is short and one is long, and there is something of each kind in either.
        let costs = |price: &Price| {
            [100, 101].map(|input| {
                price.of(&Usage { cache_creation_long: Some(10), ..usage(input, 50, 20, 30) }).expect("all is known")
            })
        };
        // A field that is new has to be named here, and then below.
        let Price { input: _, output: _, cache_read: _, cache_write: _, cache_write_long: _, long: _ } = price;
        let LongPrice { beyond: _, input: _, output: _, cache_read: _ } = long;
        let changes: [fn(&mut Price); 9] = [
            |price| price.input = 10.0,
            |price| price.output = 10.0,
            |price| price.cache_read = Some(10.0),
            |price| price.cache_write = Some(10.0),
            |price| price.cache_write_long = Some(10.0),
            |price| price.long.as_mut().unwrap().beyond = 101,
            |price| price.long.as_mut().unwrap().input = 10.0,
            |price| price.long.as_mut().unwrap().output = 10.0,
            |price| price.long.as_mut().unwrap().cache_read = Some(10.0),
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut changed = price.clone();
            change(&mut changed);
            assert_ne!(costs(&changed), costs(&price), "field {number}");
        }
        // Where there is none for an hour, that for five minutes holds.
        let usage = Usage { cache_creation_long: Some(30), ..usage(100, 0, 0, 30) };
        let short = Price { cache_write_long: None, ..price };
        assert_eq!(short.of(&usage), Some((70.0 + 30.0 * 4.0) / MILLION));
    }

    #[test]
    fn sound_has_prices_of_its_own() {
        let table = Prices::parse("x\tm\t1\t2\nx\tm audio\t10\t20").unwrap();
        let price = table.price("x", "m", ServiceTier::Standard).unwrap();
        let sound = table.row("x", "M-2026-01-01", AUDIO);
        let usage = Usage { audio_input: Some(40), audio_output: Some(30), ..usage(100, 50, 0, 0) };
        assert_eq!(price.of_kinds(sound, None, &usage), Some((60.0 + 400.0 + 40.0 + 600.0) / MILLION));
        assert_eq!(price.of_kinds(None, None, &usage), price.of(&usage), "as text where nothing else is known");
        // More than there is in all is a mistake, and what came from a cache was cheaper.
        let odd = Usage { audio_input: Some(900), cached_input: Some(90), ..usage };
        assert_eq!(price.of_kinds(sound, None, &odd), Some((90.0 + 100.0 + 40.0 + 600.0) / MILLION));
        assert!(Prices::built_in().row("openai", "gpt-audio", AUDIO).is_some());
    }

    #[test]
    fn so_have_images() {
        let table = Prices::parse("openai\tm\t1\t2\nopenai\tm image_tokens\t10\t20").unwrap();
        let mut exchange = Exchange { provider: "openai".into(), model: Some("m".into()), ..exchange(1) };
        let cost = |exchange: &Exchange| table.cost(exchange).map(|cost| (cost.usd * MILLION).round());
        exchange.usage = Usage { image_input: Some(40), ..usage(100, 50, 0, 0) };
        assert_eq!(cost(&exchange), Some(60.0 + 400.0 + 100.0), "text, as nothing else is said");
        exchange.api = Api::Image;
        assert_eq!(cost(&exchange), Some(60.0 + 400.0 + 1000.0));
        // A table above that has the model has the last word on all of its tokens.
        let above = Prices::parse("openai\tm\t1\t2").unwrap().over(Arc::new(table.clone()));
        assert_eq!(above.cost(&exchange).map(|cost| (cost.usd * MILLION).round()), Some(100.0 + 100.0));
        exchange.usage.image_output = Some(30);
        assert_eq!(cost(&exchange), Some(60.0 + 400.0 + 40.0 + 600.0));
        assert!(Prices::built_in().row("openai", "gpt-image-1", IMAGE_TOKENS).is_some());
    }

    #[test]
    fn images_seconds_and_searches_have_prices_of_their_own() {
        let table =
            Prices::parse("x\tm image\t0.04\nx\tm second\t0.001\nx\tm search\t0.002\nx\tboth image\t1\nx\tboth\t1\t2")
                .unwrap();
        let of = |model: &str, usage: Usage| table.of_units("x", model, &usage);
        assert_eq!(of("m", Usage { images: Some(3), ..Usage::default() }), Some(0.12));
        assert_eq!(of("M-2026-01-01", Usage { audio_milliseconds: Some(2500), ..Usage::default() }), Some(0.0025));
        assert_eq!(of("m", Usage { searches: Some(2), ..Usage::default() }), Some(0.004));
        assert_eq!(of("m", Usage::default()), None, "nothing is known");
        assert_eq!(of("both", Usage { searches: Some(2), ..Usage::default() }), None, "it has no such price");
        let error = Prices::parse("x\tm image\t").unwrap_err().to_string();
        assert_eq!(error, "line 1: the price of one is missing");
        let [image, ..] = UNITS;
        assert!(Prices::built_in().iter().any(|(_, model, price)| model.ends_with(image) && price.input < 1.0));
    }

    #[test]
    fn what_is_billed_is_paid_for() {
        let usage = Usage { billed_input: Some(10), billed_output: Some(5), ..usage(1000, 500, 0, 0) };
        let price = Price { input: 1.0, output: 2.0, ..Prices::parse("x\tm\t1\t1").unwrap().models["x\tm"].clone() };
        assert_eq!(price.of(&usage), Some(20.0 / MILLION));
    }

    #[test]
    fn tiers_have_prices_of_their_own() {
        use ServiceTier::*;
        let text = "x\tm\t1\t1\nx\tm flex\t2\t2\nx\tm priority\t3\t3\nx\tn\t4\t4\nx\tn-2026-01-01\t4\t4";
        let prices = Prices::parse(text).unwrap();
        let input = |model, tier| prices.price("x", model, tier).map(|price| price.input);
        assert_eq!([Standard, Flex, Priority].map(|tier| input("m", tier)), [1.0, 2.0, 3.0].map(Some));
        assert_eq!(input("m-2026-01-01", Priority), Some(3.0), "a day in the name does not matter");
        // Without one, what is cheaper is no dearer than the standard, and of what is dearer nothing is known.
        let of_n = [Flex, Batch, Priority, Fast, Other].map(|tier| input("n-2026-01-01", tier));
        assert_eq!(of_n, [Some(4.0), Some(4.0), None, None, None]);
    }

    #[test]
    fn who_has_a_model_has_the_last_word() {
        use ServiceTier::*;
        let built_in = Prices::built_in();
        let prices = |text: &str| Prices::parse(text).unwrap().over(Arc::clone(built_in));
        let ours = prices("openai\tgpt-5.4\t1\t1\nopenai\tgpt-5.4-2026-03-05\t2\t2");
        let input =
            |prices: &Prices, provider, model, tier| prices.price(provider, model, tier).map(|price| price.input);
        assert_eq!(input(&ours, "openai", "gpt-5.4", Standard), Some(1.0));
        assert_eq!(input(&ours, "openai", "gpt-5.4-2026-03-05", Standard), Some(2.0));
        // Its name with a day is another row of the table below.
        let ours = prices("anthropic\tclaude-sonnet-4-5\t1\t1");
        assert_eq!(input(&ours, "anthropic", "claude-sonnet-4-5-20250929", Standard), Some(1.0));
        assert_eq!(input(&ours, "anthropic", "claude-sonnet-4-5", Flex), Some(1.0), "flex is no dearer");
        assert_eq!(input(&ours, "anthropic", "claude-haiku-4-5", Standard), Some(1.0), "the table below");
        assert_ne!(input(&ours, "aws.bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", Standard), Some(1.0));
        let top = Prices::parse("openai\tgpt-5.4\t7\t7").unwrap().over(Arc::new(ours));
        assert_eq!(top.tables().count(), 3);
        assert_eq!(input(&top, "openai", "gpt-5.4", Standard), Some(7.0));
    }

    #[test]
    fn the_tier_is_part_of_the_cost() {
        // As the wire says it.
        let tier = |word: &str| ServiceTier::of(word.as_bytes()).unwrap();
        let input = |word| Prices::built_in().price("openai", "gpt-5.4", tier(word)).map(|price| price.input);
        assert_eq!(["default", "priority", "flex", "scale"].map(input), [Some(2.5), Some(5.0), Some(1.25), None]);
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
            ("aws.bedrock", "global.anthropic.claude-haiku-4-5-20251001-v1:0"),
            ("aws.bedrock", "anthropic.claude-haiku-4-5-v1"),
            ("gcp.vertex_ai", "claude-haiku-4-5@20251001"),
            ("azure.ai.inference", "claude-haiku-4-5"),
        ] {
            assert_eq!(costs(provider, model, &usage(1_000_000, 0, 0, 0)), Some(1.0), "{provider} {model}");
        }
        // Where a region has a price of its own, that is it.
        let regional = costs("aws.bedrock", "us.anthropic.claude-haiku-4-5-20251001-v1:0", &usage(1_000_000, 0, 0, 0));
        assert_eq!(regional, Some(1.1));
        assert_eq!(
            costs("openai", "ft:gpt-4o-mini-2024-07-18:whose::id", &usage(1_000_000, 0, 0, 0)),
            costs("openai", "ft:gpt-4o-mini-2024-07-18", &usage(1_000_000, 0, 0, 0)),
        );
        assert!(costs("openai", "ft:gpt-4o-mini-2024-07-18:whose::id", &usage(1, 1, 0, 0)).is_some());
        assert!(costs("azure.ai.inference", "gpt-4o", &usage(1, 1, 0, 0)).is_some());
        assert!(costs("gcp.vertex_ai", "zai-org/glm-5-maas", &usage(1, 1, 0, 0)).is_some());
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
        let price = Prices::built_in().price("openai", "gpt-4o", ServiceTier::Standard).unwrap();
        assert_eq!(price.of(&Usage::default()), None);
        assert_eq!(price.of(&Usage { input: Some(1), ..Usage::default() }), None);
        let vectors = Prices::built_in().price("openai", "text-embedding-3-small", ServiceTier::Standard).unwrap();
        assert_eq!(vectors.of(&Usage { input: Some(1_000_000), ..Usage::default() }), Some(0.02));
    }

    #[test]
    fn a_table_says_which_line_is_wrong() {
        let prices = Prices::parse("# as of 2027-01-02\nx\tm\t1\t2\n\nopenai\tgpt-4o\t7\t8\t-\t9\n").unwrap();
        assert_eq!(prices.as_of(), Some("2027-01-02"));
        assert_eq!(prices.iter().count(), 2);
        for (text, expected) in [
            ("x", "line 1: a provider, a model and its prices are expected, with tabs between them"),
            ("# x\nx\tm\t1", "line 2: the price of output is missing"),
            ("x\tm\t1\t-1", "line 1: the price of output is \"-1\", which is no price"),
            ("x\tm\t1\tnan", "line 1: the price of output is \"nan\", which is no price"),
            ("x\tm\t1\t1\t\t\t\t9", "line 1: the price of input of long prompts is missing"),
            (
                "x\tm slow\t1\t1",
                "line 1: \"slow\" is no tier, no unit and no kind of tokens: behind a model and a space there is one of batch, fast, flex, priority, audio, image_tokens, image, second, search",
            ),
            ("x\tm\t1\t1\t1\t1\t1\t1\t1\t1\t1\t1", "line 1: a provider, a model and at most nine numbers are expected"),
        ] {
            assert_eq!(Prices::parse(text).unwrap_err().to_string(), expected);
        }
        let (prices, errors) = Prices::check("x\tm\t1\nx\tm\t1\t1\nx", 9);
        assert_eq!((prices.iter().count(), errors.len()), (1, 2));
    }

    #[test]
    fn gpus_have_a_price_of_an_hour() {
        let below = Prices::parse("gpu\tNVIDIA H100\t2\ngpu\tNVIDIA H200 NVL\t3").unwrap();
        let prices = Prices::parse("GPU\tnvidia h200\t3.79\ngpu\tNVIDIA H100\t2.5\t0").unwrap().over(below.into());
        let of = |name: &str| prices.gpu_hour(name);
        assert_eq!(
            [of("NVIDIA H200"), of("NVIDIA H100"), of("NVIDIA H200 NVL"), of("NVIDIA A100")],
            [Some(3.79), Some(2.5), Some(3.0), None]
        );
        let all = Prices::parse("gpu\t*\t1.5").unwrap();
        assert_eq!((all.gpu_hour("any"), Prices::built_in().gpu_hour("NVIDIA H200")), (Some(1.5), None));
        assert!(Prices::parse("gpu\tNVIDIA H100\t-").is_err());
    }
}
