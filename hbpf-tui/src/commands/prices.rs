//! `hbpf prices`: what tokens are taken to cost.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use hbpf_core::prices::{Prices, is_of_unit};

use super::{complain, print};
use crate::cli::PricesArgs;
use crate::prices::{self, Checked};

pub(crate) fn run(arguments: &PricesArgs) -> Result<ExitCode> {
    if let Some(file) = &arguments.check {
        let Some(checked) = check(file) else { return Ok(ExitCode::FAILURE) };
        print(&told(file, &checked))?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(file) = &arguments.update {
        let Some(checked) = check(file) else { return Ok(ExitCode::FAILURE) };
        let place = prices::place()?;
        prices::install(&checked.table, &place)?;
        print(&format!("{}installed as {}\n", told(file, &checked), place.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let prices = prices::load(arguments.prices.as_deref())?;
    let text = listed(&prices, &arguments.models, arguments.only);
    ensure!(!text.is_empty(), "no price is known of {}", arguments.models.join(", "));
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// What a file has, unless something is wrong with it, which is said.
fn check(file: &Path) -> Option<Checked> {
    let complain = |error: anyhow::Error| complain(&error.context(file.display().to_string()));
    let checked = prices::text_of(file).map_err(complain).ok()?;
    let mut checked = prices::check(&checked);
    let errors = std::mem::take(&mut checked.errors);
    if errors.is_empty() {
        return Some(checked);
    }
    errors.into_iter().for_each(complain);
    None
}

/// How much a file has, of whom, and of what day.
fn told(file: &Path, checked: &Checked) -> String {
    let prices = &checked.prices;
    let providers: BTreeSet<_> = prices.iter().map(|(provider, ..)| provider).collect();
    let units = prices.iter().filter(|(_, model, _)| is_of_unit(model)).count();
    let tiers = prices.iter().filter(|(_, model, _)| model.contains(' ')).count() - units;
    let mut text = format!(
        "{}: prices of {} models of {} providers, and {tiers} of their tiers, {}\n",
        file.display(),
        prices.iter().count() - tiers,
        providers.len(),
        day(prices)
    );
    for remark in &checked.remarks {
        let _ = writeln!(text, "{remark}");
    }
    text
}

fn day(prices: &Prices) -> String {
    prices.as_of().map_or_else(|| "of no known day".to_owned(), |day| format!("as of {day}"))
}

/// A line for each model whose name has one of these in it; all if none is named. Of tables below others what still holds;
/// `is_only`: not those.
fn listed(prices: &Prices, models: &[String], is_only: bool) -> String {
    let is_wanted =
        |name: &str| models.is_empty() || models.iter().any(|model| name.contains(&model.to_ascii_lowercase()));
    let mut parts = Vec::new();
    for (depth, table) in prices.tables().take(if is_only { 1 } else { usize::MAX }).enumerate() {
        let mut text = String::new();
        let above = || prices.tables().take(depth);
        for (provider, model, price) in table.iter().filter(|(_, model, _)| is_wanted(model)) {
            if !above().any(|table| table.has(provider, model)) {
                prices::write_row(&mut text, provider, model, price);
            }
        }
        if !text.is_empty() {
            parts.push((day(table), text));
        }
    }
    let Some((first, _)) = parts.first() else { return String::new() };
    let mut text = "# US dollars per million tokens, or per unit; - where there is no price of its own\n".to_owned();
    // What has one day can be read again with it.
    let is_of_one_day = parts.iter().all(|(day, _)| day == first);
    if is_of_one_day {
        let _ = writeln!(text, "# {first}");
    }
    text.push_str(prices::COLUMNS);
    for (day, rows) in &parts {
        if !is_of_one_day {
            let _ = writeln!(text, "# these are {day}:");
        }
        text.push_str(rows);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn table(text: &str) -> Prices {
        Prices::parse(text).unwrap()
    }

    #[test]
    fn what_is_listed_can_be_read_again() {
        let built_in = Prices::built_in();
        let text = listed(built_in, &[], false);
        let again = table(&text);
        assert_eq!(again, **built_in);
        assert_eq!(again.as_of(), Some("2026-11-20"));
        let few = listed(built_in, &["GPT-4o-MINI-2024-07-18".to_owned()], false);
        assert!(few.contains("\nopenai\tgpt-4o-mini-2024-07-18\t0.15\t0.6\t0.075\n"), "{few}");
        assert_eq!(listed(built_in, &["nothing".to_owned()], false), "");
    }

    #[test]
    fn each_table_has_its_own_day() {
        let below = Arc::new(table("# as of 2026-01-02\nx\tm-2026-01-01\t1\t1\nx\tm flex\t1\t1\nx\tn\t1\t1\n"));
        let ours = table("x\tm\t2\t3\n").over(Arc::clone(&below));
        let head = "# US dollars per million tokens, or per unit; - where there is no price of its own\n";
        let columns = prices::COLUMNS;
        // What no longer holds is not told.
        let all = format!(
            "{head}{columns}# these are of no known day:\nx\tm\t2\t3\n# these are as of 2026-01-02:\nx\tn\t1\t1\n"
        );
        assert_eq!(listed(&ours, &[], false), all);
        assert_eq!(table(&all).as_of(), None);
        assert_eq!(listed(&ours, &[], true), format!("{head}# of no known day\n{columns}x\tm\t2\t3\n"));
        let same = table("# as of 2026-01-02\nx\tm\t2\t3\n").over(below);
        assert_eq!(listed(&same, &[], false), format!("{head}# as of 2026-01-02\n{columns}x\tm\t2\t3\nx\tn\t1\t1\n"));
    }

    #[test]
    fn a_file_is_summed_up() {
        let checked = prices::check("# as of 2027-01-02\nopenai\tm\t1\t1\nopenai\tm flex\t1\t1\nazure\tn\t1\t1\n");
        assert_eq!(
            told(Path::new("ours.tsv"), &checked),
            "ours.tsv: prices of 2 models of 2 providers, and 1 of their tiers, as of 2027-01-02\n\
             no exchange is with azure, which is azure.ai.openai here\n"
        );
        assert!(check(Path::new("/nonexistent")).is_none());
    }
}
