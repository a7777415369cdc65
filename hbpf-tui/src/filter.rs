//! The language in which rows are picked: `model:qwen ttft>500ms !status:5xx`.
//!
//! Terms beside each other must all hold; `or`, `!` and parentheses say otherwise. A term is a field with what it shall be, or text
//! that stands anywhere in a row.

use std::borrow::Cow;
use std::fmt;

use crate::format;

/// Longest filter: nobody types more, and a file may have anything.
const MAX_CHARS: usize = 512;

/// Deepest nesting.
const MAX_DEPTH: usize = 16;

/// A table's field that can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) name: String,
    /// As its column is headed, where that is another word.
    pub(crate) heading: String,
    pub(crate) kind: Kind,
}

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Names: asked for by a part of them.
    Text,
    /// Counts, rates, money.
    Number,
    /// Memory: `k`, `M` and `G` are powers of 1024, or of 1000 where sizes are shown so.
    Bytes,
    /// Times.
    Seconds,
    /// HTTP's, also by its class: `5xx`.
    Status,
}

/// What a row has in a field.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Text(Cow<'a, str>),
    Number(f64),
    /// That is never what is asked for, whatever that is.
    Unknown,
}

impl<'a> Value<'a> {
    pub(crate) fn text(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }

    pub(crate) fn number(number: Option<f64>) -> Self {
        number.map_or(Self::Unknown, Self::Number)
    }
}

/// A row that may be picked.
pub(crate) trait Row {
    /// Its value in a field of its table.
    fn value(&self, field: &str) -> Value<'_>;

    /// Whether a text, in lower case, stands in one of its names.
    fn has_text(&self, text: &str) -> bool;
}

/// What rows are picked by.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Filter {
    text: String,
    wanted: Wanted,
}

#[derive(Clone, Debug, PartialEq)]
enum Wanted {
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Box<Self>),
    /// In lower case.
    Text(String),
    Field(String, Test),
}

#[derive(Clone, Debug, PartialEq)]
enum Test {
    /// In lower case.
    Contains(String),
    /// From the first to the second, both included.
    Within(f64, f64),
    Above(f64),
    Below(f64),
}

/// Why a text is no filter: one line, for whoever types it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FilterError {
    /// How many characters stand before what is wrong.
    pub(crate) at: usize,
    pub(crate) what: String,
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Filter {
    /// Reads a filter for a table with these fields; `None` where nothing is asked for.
    ///
    /// # Errors
    ///
    /// What is wrong with it first.
    pub(crate) fn parse(text: &str, fields: &[Field]) -> Result<Option<Self>, FilterError> {
        let text = text.trim();
        if text.chars().count() > MAX_CHARS {
            return Err(FilterError { at: MAX_CHARS, what: format!("at most {MAX_CHARS} characters") });
        }
        if text.is_empty() {
            return Ok(None);
        }
        let mut parser = Parser { tokens: tokens(text)?, next: 0, fields, end: text.chars().count() };
        let wanted = parser.any(0)?;
        match parser.peek() {
            None => Ok(Some(Self { text: text.to_owned(), wanted })),
            Some(token) => Err(FilterError { at: token.at, what: "no parenthesis was opened for this".to_owned() }),
        }
    }

    /// Whether a row is wanted.
    pub(crate) fn picks(&self, row: &impl Row) -> bool {
        self.wanted.picks(row)
    }
}

impl Wanted {
    fn picks(&self, row: &impl Row) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.picks(row)),
            Self::Any(parts) => parts.iter().any(|part| part.picks(row)),
            Self::Not(part) => !part.picks(row),
            Self::Text(text) => row.has_text(text),
            Self::Field(field, test) => test.holds(&row.value(field)),
        }
    }
}

impl Test {
    fn holds(&self, value: &Value<'_>) -> bool {
        match (self, value) {
            (Self::Contains(text), Value::Text(value)) => value.to_lowercase().contains(text),
            (Self::Within(from, to), Value::Number(value)) => (from..=to).contains(&value),
            (Self::Above(limit), Value::Number(value)) => value > limit,
            (Self::Below(limit), Value::Number(value)) => value < limit,
            _ => false,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Token {
    at: usize,
    kind: TokenKind,
}

#[derive(Clone, Debug, PartialEq)]
enum TokenKind {
    Not,
    Open,
    Close,
    And,
    Or,
    /// Text; whether it stood in quotes, and so is nothing but text.
    Term(String, bool),
}

fn tokens(text: &str) -> Result<Vec<Token>, FilterError> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().enumerate().peekable();
    while let Some((at, first)) = chars.next() {
        let kind = match first {
            _ if first.is_whitespace() => continue,
            '!' => TokenKind::Not,
            '(' => TokenKind::Open,
            ')' => TokenKind::Close,
            '"' => {
                let mut quoted = String::new();
                loop {
                    match chars.next() {
                        Some((_, '"')) => break,
                        Some((_, other)) => quoted.push(other),
                        None => return Err(FilterError { at, what: "this quote has no end".to_owned() }),
                    }
                }
                TokenKind::Term(quoted, true)
            }
            _ => {
                let mut term = String::from(first);
                let mut is_quoted = false;
                while let Some((_, other)) = chars.next_if(|(_, c)| is_quoted || !(c.is_whitespace() || *c == ')')) {
                    match other {
                        // As in model:"a b".
                        '"' => is_quoted = !is_quoted,
                        other => term.push(other),
                    }
                }
                if is_quoted {
                    return Err(FilterError { at, what: "this quote has no end".to_owned() });
                }
                match term.to_ascii_lowercase().as_str() {
                    "and" => TokenKind::And,
                    "or" => TokenKind::Or,
                    "not" => TokenKind::Not,
                    _ => TokenKind::Term(term, false),
                }
            }
        };
        tokens.push(Token { at, kind });
    }
    Ok(tokens)
}

struct Parser<'a> {
    tokens: Vec<Token>,
    next: usize,
    fields: &'a [Field],
    end: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next)
    }

    fn take(&mut self, kind: &TokenKind) -> bool {
        let is_it = self.peek().is_some_and(|token| token.kind == *kind);
        self.next += usize::from(is_it);
        is_it
    }

    fn any(&mut self, depth: usize) -> Result<Wanted, FilterError> {
        let mut parts = vec![self.all(depth)?];
        while self.take(&TokenKind::Or) {
            parts.push(self.all(depth)?);
        }
        Ok(one_or(parts, Wanted::Any))
    }

    fn all(&mut self, depth: usize) -> Result<Wanted, FilterError> {
        let mut parts = vec![self.one(depth)?];
        loop {
            let said = self.take(&TokenKind::And);
            let goes_on = self.peek().is_some_and(|token| !matches!(token.kind, TokenKind::Or | TokenKind::Close));
            if !said && !goes_on {
                return Ok(one_or(parts, Wanted::All));
            }
            parts.push(self.one(depth)?);
        }
    }

    fn one(&mut self, depth: usize) -> Result<Wanted, FilterError> {
        let at = self.peek().map_or(self.end, |token| token.at);
        let wrong = |what: &str| Err(FilterError { at, what: what.to_owned() });
        if depth >= MAX_DEPTH {
            return wrong("this is nested too deep");
        }
        let Some(token) = self.tokens.get(self.next).cloned() else { return wrong("a term is missing here") };
        self.next += 1;
        match token.kind {
            TokenKind::Not => Ok(Wanted::Not(Box::new(self.one(depth + 1)?))),
            TokenKind::Open => {
                let inner = self.any(depth + 1)?;
                if self.take(&TokenKind::Close) { Ok(inner) } else { wrong("this parenthesis is not closed") }
            }
            TokenKind::Term(text, true) => Ok(Wanted::Text(text.to_lowercase())),
            TokenKind::Term(text, false) => term(&text, self.fields).map_err(|what| FilterError { at, what }),
            TokenKind::Close | TokenKind::And | TokenKind::Or => wrong("a term is missing here"),
        }
    }
}

fn one_or(mut parts: Vec<Wanted>, many: fn(Vec<Wanted>) -> Wanted) -> Wanted {
    if parts.len() == 1 { parts.remove(0) } else { many(parts) }
}

/// How a field and what it shall be are put together; the longer first.
const SIGNS: [&str; 7] = [">=", "<=", "!=", ":", "=", ">", "<"];

fn term(text: &str, fields: &[Field]) -> Result<Wanted, String> {
    let sign =
        text.char_indices().find_map(|(at, _)| Some((at, SIGNS.iter().find(|sign| text[at..].starts_with(**sign))?)));
    let Some((at, sign)) = sign.filter(|(at, _)| *at > 0) else { return Ok(Wanted::Text(text.to_lowercase())) };
    let (name, value) = (&text[..at], &text[at + sign.len()..]);
    let is_it = |field: &&Field| [&field.name, &field.heading].iter().any(|known| known.eq_ignore_ascii_case(name));
    let field = fields.iter().find(is_it).ok_or_else(|| unknown(name, fields))?;
    if value.is_empty() {
        return Err(format!("what shall {} be? {}", field.name, example(field)));
    }
    let test = test(field, sign, value)
        .ok_or_else(|| format!("{value:?} is nothing that {} can be: {}", field.name, example(field)))?;
    let wanted = Wanted::Field(field.name.clone(), test);
    Ok(if *sign == "!=" { Wanted::Not(Box::new(wanted)) } else { wanted })
}

fn test(field: &Field, sign: &str, value: &str) -> Option<Test> {
    if field.kind == Kind::Text {
        return matches!(sign, ":" | "=" | "!=").then(|| Test::Contains(value.to_lowercase()));
    }
    if field.kind == Kind::Status && matches!(sign, ":" | "=" | "!=") {
        return status(value);
    }
    let number = match field.kind {
        Kind::Seconds => {
            plain(value).or_else(|| humantime::parse_duration(value).ok().map(|time| time.as_secs_f64()))?
        }
        Kind::Bytes => scaled(value, format::bytes_base())?,
        Kind::Text | Kind::Number | Kind::Status => scaled(value.strip_suffix('%').unwrap_or(value), 1000.0)?,
    };
    Some(match sign {
        ">" => Test::Above(number),
        "<" => Test::Below(number),
        ">=" => Test::Within(number, f64::INFINITY),
        "<=" => Test::Within(f64::NEG_INFINITY, number),
        _ => Test::Within(number, number),
    })
}

fn plain(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

/// A number with a unit behind it.
fn scaled(text: &str, step: f64) -> Option<f64> {
    let text = text.strip_prefix('$').unwrap_or(text);
    let power = match text.chars().last()? {
        'k' | 'K' => 1,
        'M' => 2,
        'G' => 3,
        'T' => 4,
        _ => return plain(text),
    };
    Some(plain(&text[..text.len() - 1])? * step.powi(power))
}

/// `429`, or `5xx`.
fn status(text: &str) -> Option<Test> {
    let digits = text.trim_end_matches(['x', 'X']);
    let low: u32 = digits.parse().ok().filter(|_| text.len() == 3)?;
    let width = 10_u32.pow(u32::try_from(text.len() - digits.len()).ok()?);
    Some(Test::Within(f64::from(low * width), f64::from(low * width + width - 1)))
}

fn unknown(name: &str, fields: &[Field]) -> String {
    let lower = name.to_lowercase();
    let near = fields.iter().map(|field| (strsim::damerau_levenshtein(&lower, &field.name), &field.name)).min();
    match near {
        // Of short names nearly all are near.
        Some((distance, near)) if distance <= 2 && distance + 2 < lower.len() => {
            format!("there is no field {name:?}; is it {near}?")
        }
        _ => {
            let names = fields.iter().map(|field| field.name.as_str()).collect::<Vec<_>>().join(" ");
            format!("no field {name:?} in this table; text with a sign goes in quotes; there are {names}")
        }
    }
}

fn example(field: &Field) -> String {
    let name = &field.name;
    match field.kind {
        Kind::Text => format!("write {name}:text"),
        Kind::Bytes => format!("write {name}>500M or {name}<2G"),
        Kind::Number => format!("write {name}>100 or {name}<2k"),
        Kind::Seconds => format!("write {name}>500ms or {name}<2s"),
        Kind::Status => format!("write {name}:429, {name}:5xx or {name}>=400"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fields() -> Vec<Field> {
        let field =
            |name: &str, heading: &str, kind| Field { name: name.to_owned(), heading: heading.to_owned(), kind };
        vec![
            field("pid", "pid", Kind::Number),
            field("model", "model", Kind::Text),
            field("status", "http", Kind::Status),
            field("ttft", "ttft50", Kind::Seconds),
            field("tok/s", "tok/s", Kind::Number),
            field("mem", "mem", Kind::Bytes),
        ]
    }

    struct Example {
        status: Option<f64>,
    }

    impl Row for Example {
        fn value(&self, field: &str) -> Value<'_> {
            match field {
                "pid" => Value::Number(41.0),
                "model" => Value::text("Qwen/Qwen2.5-7B"),
                "status" => Value::number(self.status),
                "ttft" => Value::Number(0.7),
                "tok/s" => Value::Number(1500.0),
                "mem" => Value::Number(980.0 * 1024.0 * 1024.0),
                _ => panic!("no such field"),
            }
        }

        fn has_text(&self, text: &str) -> bool {
            "qwen/qwen2.5-7b vllm serve".contains(text)
        }
    }

    fn picks(text: &str) -> bool {
        Filter::parse(text, &fields())
            .unwrap_or_else(|error| panic!("{text}: {error:?}"))
            .unwrap()
            .picks(&Example { status: Some(503.0) })
    }

    #[test]
    fn rows_are_picked() {
        for yes in [
            "qwen",
            "QWEN",
            "vllm",
            "\"vllm serve\"",
            "pid:41",
            "pid=41",
            "model:qwen2",
            "model:\"Qwen/Q\"",
            "status:5xx",
            "status:503",
            "status:50x",
            "status>=500",
            "status:503 ttft>500ms",
            "ttft>0.5",
            "ttft<1s",
            "tok/s>1k",
            "tok/s<2K",
            "!status:429",
            "not status:4xx",
            "pid:1 or pid:41",
            "(pid:1 or pid:41) model:qwen",
            "!(pid:1 or pid:2)",
            "pid:41 and vllm",
            "!!vllm",
            "tok/s>=1500 tok/s<=1.5k",
            "HTTP:5xx",
            "status!=429",
            "mem<1G",
            "mem>900M",
            "tok/s>50%",
        ] {
            assert!(picks(yes), "{yes}");
        }
        for no in [
            "gpt",
            "pid:4",
            "model:gpt",
            "status:429",
            "status:4xx",
            "ttft>1s",
            "tok/s>2k",
            "!vllm",
            "pid:41 gpt",
            "pid:1 or pid:2",
            "pid:1 or pid:41 gpt",
            "(pid:41 or pid:1) gpt",
            "mem>1G",
            "status!=503",
            "model!=qwen",
        ] {
            assert!(!picks(no), "{no}");
        }
        assert_eq!(Filter::parse("  ", &fields()), Ok(None));
        assert_eq!(Filter::parse(" pid:41 ", &fields()).unwrap().unwrap().to_string(), "pid:41");
    }

    #[test]
    fn what_is_not_known_is_not_what_is_asked_for() {
        let row = Example { status: None };
        let picks = |text: &str| Filter::parse(text, &fields()).unwrap().unwrap().picks(&row);
        assert!(!picks("status:5xx") && !picks("status<900") && !picks("status>0") && picks("!status:5xx"));
    }

    #[test]
    fn what_is_wrong_is_said_where_it_is() {
        for (text, at, what) in [
            ("modle:x", 0, "there is no field \"modle\"; is it model?"),
            (
                "vllm api.openai.com:443",
                5,
                "no field \"api.openai.com\" in this table; text with a sign goes in quotes; there are pid model status ttft tok/s mem",
            ),
            ("pid:", 0, "what shall pid be? write pid>100 or pid<2k"),
            ("pid:x", 0, "\"x\" is nothing that pid can be: write pid>100 or pid<2k"),
            ("ttft>soon", 0, "\"soon\" is nothing that ttft can be: write ttft>500ms or ttft<2s"),
            ("status:6x", 0, "\"6x\" is nothing that status can be: write status:429, status:5xx or status>=400"),
            ("model>x", 0, "\"x\" is nothing that model can be: write model:text"),
            (
                "fly>0",
                0,
                "no field \"fly\" in this table; text with a sign goes in quotes; there are pid model status ttft tok/s mem",
            ),
            ("a (b or", 7, "a term is missing here"),
            ("a (b", 2, "this parenthesis is not closed"),
            ("a) b", 1, "no parenthesis was opened for this"),
            ("or a", 0, "a term is missing here"),
            ("a !", 3, "a term is missing here"),
            ("a \"b", 2, "this quote has no end"),
        ] {
            assert_eq!(Filter::parse(text, &fields()), Err(FilterError { at, what: what.to_owned() }), "{text}");
        }
        assert!(Filter::parse(&"(".repeat(400), &fields()).is_err());
        assert!(Filter::parse(&"a ".repeat(400), &fields()).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(pid|model|status|ttft|tok/s|or|and|not|!|\\(|\\)|\"|:|>|<|=|5xx|1k| |é|x){0,40}") {
            if let Ok(Some(filter)) = Filter::parse(&text, &fields()) {
                filter.picks(&Example { status: None });
                prop_assert_eq!(Filter::parse(&filter.to_string(), &fields()), Ok(Some(filter.clone())));
            }
        }
    }
}
