//! `hbpf prices`: what tokens are taken to cost.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use hbpf_core::prices::{Price, Prices};

use super::print;
use crate::cli::PricesArgs;
use crate::prices;

pub(crate) fn run(arguments: &PricesArgs) -> Result<ExitCode> {
    let prices = prices::load(arguments.prices.as_deref())?;
    let text = listed(&prices, &arguments.models);
    ensure!(!text.is_empty(), "no price is known of {}", arguments.models.join(", "));
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// A line for each model whose name has one of these in it; all if none is named.
fn listed(prices: &Prices, models: &[String]) -> String {
    let is_wanted =
        |name: &str| models.is_empty() || models.iter().any(|model| name.contains(&model.to_ascii_lowercase()));
    let mut text = String::new();
    for (provider, model, price) in prices.iter().filter(|(_, model, _)| is_wanted(model)) {
        if text.is_empty() {
            let day = prices.as_of().map_or_else(String::new, |day| format!(", list prices of {day}"));
            let _ = writeln!(text, "# US dollars per million tokens{day}; - where there is no price of its own");
            text.push_str("# provider\tmodel\tinput\toutput\tcache_read\tcache_write\tcache_write_1h\tbeyond\tinput\toutput\tcache_read\n");
        }
        let _ = writeln!(text, "{provider}\t{model}\t{}", fields(price));
    }
    text
}

/// As a table that `--prices` reads has them.
fn fields(price: &Price) -> String {
    let long = price.long.as_ref();
    let numbers = [
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
    // No price has more digits than that; what comes of counting in powers of two goes.
    let text = |number: Option<f64>| {
        number.map_or_else(|| "-".to_owned(), |number| ((number * 1e9).round() / 1e9).to_string())
    };
    let mut fields: Vec<String> = numbers.into_iter().map(text).collect();
    while fields.last().is_some_and(|last| last == "-") {
        fields.pop();
    }
    fields.join("\t")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_can_be_read_again() {
        let text = listed(Prices::built_in(), &[]);
        let again = Prices::parse(&text).unwrap();
        assert_eq!(again.iter().collect::<Vec<_>>(), Prices::built_in().iter().collect::<Vec<_>>());
        assert_eq!(listed(Prices::built_in(), &["GPT-4o-MINI".to_owned()]).lines().count(), 3);
        assert_eq!(listed(Prices::built_in(), &["nothing".to_owned()]), "");
    }
}
