//! The configuration file.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use hbpf_core::dialect::{
    CustomApi, CustomBodies, CustomPlaces, MAX_CUSTOM, MAX_PATH_BYTES, install, is_path, usual_api,
};
use hbpf_core::exchange::{Api, Dialect};
use serde::Deserialize;
use toml::{Spanned, Table};

use crate::ui::Settings;

/// Where the file is looked for unless told otherwise.
const DEFAULT: &str = "/etc/hbpf/config.toml";

/// Largest file that is read: people write it.
const MAX_BYTES: u64 = 1024 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    providers: Vec<Spanned<Provider>>,
    #[serde(default)]
    view: Settings,
    /// As options of `hbpf agent`, which reads it.
    #[serde(default)]
    #[expect(dead_code, reason = "so that it is no unknown field")]
    agent: Table,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Provider {
    name: Spanned<String>,
    #[serde(default)]
    hosts: Vec<Spanned<String>>,
    #[serde(default)]
    paths: Vec<Spanned<String>>,
    api: Option<Spanned<Api>>,
    dialect: Option<Spanned<Dialect>>,
    request: Option<Spanned<Request>>,
    response: Option<Response>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Request {
    model: Option<Spanned<String>>,
    stream: Option<Spanned<String>>,
    stream_default: bool,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Framing {
    #[default]
    Sse,
    Ndjson,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Estimate {
    #[default]
    Events,
    Bytes,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Response {
    framing: Framing,
    estimate: Estimate,
    input_excludes_cached: bool,
    model: Option<Spanned<String>>,
    id: Option<Spanned<String>>,
    finish_reason: Option<Spanned<String>>,
    error: Option<Spanned<String>>,
    error_type: Option<Spanned<String>>,
    input_tokens: Option<Spanned<String>>,
    output_tokens: Option<Spanned<String>>,
    cached_input_tokens: Option<Spanned<String>>,
    cache_creation_input_tokens: Option<Spanned<String>>,
    reasoning_tokens: Option<Spanned<String>>,
    cost_usd: Option<Spanned<String>>,
    output: Vec<Spanned<String>>,
    reasoning: Vec<Spanned<String>>,
}

/// What can be set, as comments.
pub(crate) const TEMPLATE: &str = include_str!("config.toml");

/// Takes over what the file says: before this process becomes two, since it may be root's alone. What is said of the view is given
/// back.
pub(crate) fn load(path: Option<&Path>) -> Result<Settings> {
    let text = match read(path) {
        Ok(text) => text,
        // Nobody has asked for one.
        Err(error) if path.is_none() && error.kind() == ErrorKind::NotFound => return Ok(Settings::default()),
        Err(error) => return Err(anyhow!(error).context(format!("cannot read {}", name(path).display()))),
    };
    let (apis, settings) = parse(&text).with_context(|| name(path).display().to_string())?;
    install(apis)?;
    settings.units.install();
    Ok(settings)
}

/// All that the file says, if there is one.
pub(crate) fn read_table(path: Option<&Path>) -> Result<Table> {
    match read(path) {
        Ok(text) => {
            parse(&text).with_context(|| name(path).display().to_string())?;
            Ok(text.parse()?)
        }
        Err(error) if path.is_none() && error.kind() == ErrorKind::NotFound => Ok(Table::new()),
        Err(error) => Err(anyhow!(error).context(format!("cannot read {}", name(path).display()))),
    }
}

/// Where the file is looked for.
pub(crate) fn name(path: Option<&Path>) -> PathBuf {
    path.map_or_else(|| DEFAULT.into(), Path::to_owned)
}

fn read(path: Option<&Path>) -> std::io::Result<String> {
    let mut text = String::new();
    File::open(name(path))?.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(std::io::Error::other("it has more than 1 MiB"));
    }
    Ok(text)
}

fn parse(text: &str) -> Result<(Vec<CustomApi>, Settings)> {
    let config: Config = toml::from_str(text).map_err(|error| {
        // The first line says what; its own rendering has several.
        let what = error.message().lines().next().unwrap_or_default().to_owned();
        at(text, error.span(), &what)
    })?;
    ensure!(config.providers.len() <= MAX_CUSTOM, "has more than {MAX_CUSTOM} providers");
    let apis = config.providers.into_iter().map(|provider| api(text, provider)).collect::<Result<_>>()?;
    config.view.check()?;
    Ok((apis, config.view))
}

/// What is wrong, and in which line.
fn at(text: &str, span: Option<Range<usize>>, what: &str) -> anyhow::Error {
    let Some(span) = span else { return anyhow!("{what}") };
    let before = text.get(..span.start).unwrap_or(text);
    anyhow!("line {}: {what}", before.matches('\n').count() + 1)
}

fn api(text: &str, provider: Spanned<Provider>) -> Result<CustomApi> {
    let whole = provider.span();
    let provider = provider.into_inner();
    let fail = |span: Range<usize>, what: String| Err(at(text, Some(span), &what));
    for host in &provider.hosts {
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
        if host.get_ref().trim_start_matches('.').is_empty() || !host.get_ref().bytes().all(is_host) {
            return fail(
                host.span(),
                format!("{:?} is no host, such as \"llm.example\" or \".example\"", host.get_ref()),
            );
        }
    }
    for path in &provider.paths {
        let is_graphic = path.get_ref().bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#'));
        let fits = (2..=MAX_PATH_BYTES).contains(&path.get_ref().len());
        if !path.get_ref().starts_with(['/', ':']) || path.get_ref().ends_with('/') || !is_graphic || !fits {
            return fail(
                path.span(),
                format!(
                    "{:?} is no end of a path, such as \"/v2/ask\": 2 to {MAX_PATH_BYTES} characters",
                    path.get_ref()
                ),
            );
        }
    }
    if provider.name.get_ref().trim().is_empty() {
        return fail(provider.name.span(), "a provider needs a name".into());
    }
    if provider.hosts.is_empty() && provider.paths.is_empty() {
        return fail(whole, format!("{:?} needs hosts or paths", provider.name.get_ref()));
    }
    let dialect = provider.dialect.as_ref().map(|dialect| *dialect.get_ref());
    let usual = dialect.map_or(Api::Chat, usual_api);
    let kind = provider.api.as_ref().map_or(usual, |api| *api.get_ref());
    if let Some(api) = provider.api.as_ref().filter(|_| (kind == Api::Tool) != (dialect == Some(Dialect::Mcp))) {
        return fail(api.span(), "tools are called in the dialect \"mcp\", and nothing else is".into());
    }
    let has_places = provider.request.is_some() || provider.response.is_some();
    let bodies = match provider.dialect {
        Some(dialect) if has_places => {
            return fail(dialect.span(), "a dialect is built in: request and response cannot be told beside it".into());
        }
        Some(dialect) if *dialect.get_ref() == Dialect::Custom => {
            return fail(dialect.span(), "that dialect is what request and response describe: leave it out".into());
        }
        Some(dialect) => CustomBodies::Like(dialect.into_inner()),
        None if !has_places && !provider.paths.is_empty() => {
            return fail(
                whole,
                format!("{:?} has paths: it needs a dialect, or request and response", provider.name.get_ref()),
            );
        }
        None => CustomBodies::At(Box::new(places(text, provider.request.map(Spanned::into_inner), provider.response)?)),
    };
    Ok(CustomApi {
        provider: provider.name.into_inner(),
        hosts: provider.hosts.into_iter().map(|host| host.into_inner().to_ascii_lowercase()).collect(),
        paths: provider.paths.into_iter().map(Spanned::into_inner).collect(),
        api: kind,
        bodies,
    })
}

fn places(text: &str, request: Option<Request>, response: Option<Response>) -> Result<CustomPlaces> {
    let (request, response) = (request.unwrap_or_default(), response.unwrap_or_default());
    let place = |path: Spanned<String>| {
        let span = path.span();
        // As some write it.
        let path = path.get_ref().strip_prefix("$.").unwrap_or(path.get_ref()).to_owned();
        if is_path(&path) {
            Ok(path)
        } else {
            Err(at(text, Some(span), &format!("{path:?} is no place, such as \"usage.input\" or \"choices[].text\"")))
        }
    };
    let one = |path: Option<Spanned<String>>| path.map(place).transpose();
    let several = |paths: Vec<Spanned<String>>| paths.into_iter().map(place).collect::<Result<Vec<_>>>();
    Ok(CustomPlaces {
        request_model: one(request.model)?,
        request_stream: one(request.stream)?,
        stream_default: request.stream_default,
        response_model: one(response.model)?,
        id: one(response.id)?,
        finish_reason: one(response.finish_reason)?,
        error: one(response.error)?,
        error_type: one(response.error_type)?,
        input_tokens: one(response.input_tokens)?,
        output_tokens: one(response.output_tokens)?,
        cached_input_tokens: one(response.cached_input_tokens)?,
        cache_creation_input_tokens: one(response.cache_creation_input_tokens)?,
        reasoning_tokens: one(response.reasoning_tokens)?,
        cost_usd: one(response.cost_usd)?,
        output: several(response.output)?,
        reasoning: several(response.reasoning)?,
        input_excludes_cached: response.input_excludes_cached,
        streams_lines: matches!(response.framing, Framing::Ndjson),
        events_hold_several: matches!(response.estimate, Estimate::Bytes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_guide_shows_is_read() {
        let guide = include_str!("../../docs/user-guide.md");
        let example = guide.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
        let (apis, _) = parse(example).unwrap();
        let names: Vec<_> = apis.iter().map(|api| (api.provider.as_str(), api.paths.len(), api.api)).collect();
        assert_eq!(names, [("acme", 1, Api::Chat), ("gateway", 1, Api::Messages), ("lab", 0, Api::Chat)]);
        let CustomBodies::At(places) = &apis[0].bodies else { panic!("{:?}", apis[0]) };
        assert_eq!((places.request_model.as_deref(), places.streams_lines), (Some("engine"), true));
        assert_eq!(apis[1].bodies, CustomBodies::Like(Dialect::AnthropicMessages));
    }

    #[test]
    fn what_the_template_offers_can_be_set() {
        assert_eq!(parse(TEMPLATE).unwrap(), (Vec::new(), Settings::default()));
        // Without the signs of comments before what is none.
        let is_setting = |line: &str| {
            line.starts_with("# [") || line.split_once(" = ").is_some_and(|(key, _)| !key[2..].contains(' '))
        };
        let lines = TEMPLATE.lines().map(|line| if is_setting(line) { line.trim_start_matches("# ") } else { line });
        let (apis, settings) = parse(&lines.collect::<Vec<_>>().join("\n")).unwrap();
        assert_eq!(apis.len(), 1);
        let usual = Settings::default();
        let of = |settings: &Settings| (settings.theme, settings.ascii, settings.hide_idle, settings.made_up_names);
        assert_eq!(of(&settings), of(&usual), "the defaults");
    }

    #[test]
    fn the_view_is_set_and_mistakes_are_told() {
        let (_, settings) = parse("[view]\ntheme = \"color-blind\"\nhide_idle = true\n").unwrap();
        assert!(settings.theme == crate::ui::Palette::ColorBlind && settings.hide_idle && !settings.ascii);
        let wrong = |text: &str| parse(text).unwrap_err().to_string();
        assert!(wrong("[view]\ntheme = \"pink\"").starts_with("line 2: unknown variant `pink`, expected one of"));
        assert!(wrong("\n[view]\ncolour = 1").starts_with("line 3: unknown field `colour`"));
        assert!(wrong("[view.keys]\ncharts = \"q\"").contains("is both charts and quit"));
        assert!(parse("[view.keys]\ncharts = [\"g\", \"F5\"]\nhome = \"Home\"").is_ok());
    }

    #[test]
    fn a_mistake_is_told_with_its_line() {
        for (text, expected) in [
            ("providers = 1", "line 1: invalid type: integer `1`, expected a sequence"),
            (
                "\n[[providers]]\nname = \"a\"\nhots = []\n",
                "line 4: unknown field `hots`, expected one of `name`, `hosts`, `paths`, `api`, `dialect`, `request`, `response`",
            ),
            ("[[providers]]\nname = \"a\"\n", "line 1: \"a\" needs hosts or paths"),
            ("[[providers]]\nname = \"\"\nhosts = [\"x\"]\n", "line 2: a provider needs a name"),
            (
                "[[providers]]\nname = \"a\"\nhosts = [\"https://x\"]\n",
                "line 3: \"https://x\" is no host, such as \"llm.example\" or \".example\"",
            ),
            (
                "[[providers]]\nname = \"a\"\npaths = [\n  \"/ok\",\n  \"ask\"]\n",
                "line 5: \"ask\" is no end of a path, such as \"/v2/ask\": 2 to 64 characters",
            ),
            (
                "[[providers]]\nname = \"a\"\npaths = [\"/ask\"]\n",
                "line 1: \"a\" has paths: it needs a dialect, or request and response",
            ),
            (
                "[[providers]]\nname = \"a\"\nhosts = [\"x\"]\ndialect = \"custom\"\n",
                "line 4: that dialect is what request and response describe: leave it out",
            ),
            (
                "[[providers]]\nname = \"a\"\nhosts = [\"x\"]\ndialect = \"ollama\"\n[providers.response]\n",
                "line 4: a dialect is built in: request and response cannot be told beside it",
            ),
            (
                "[[providers]]\nname = \"a\"\npaths = [\"/x\"]\n[providers.response]\ninput_tokens = \"usage[0]\"\n",
                "line 5: \"usage[0]\" is no place, such as \"usage.input\" or \"choices[].text\"",
            ),
            (
                "[[providers]]\nname = \"a\"\npaths = [\"/x\"]\napi = \"tool\"\ndialect = \"ollama\"\n",
                "line 4: tools are called in the dialect \"mcp\", and nothing else is",
            ),
            ("[[providers]\n", "line 1: "),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with(expected) && !error.contains('\n'), "{error:?} for {text:?}");
        }
        let unknown =
            parse("[[providers]]\nname = \"a\"\nhosts = [\"x\"]\ndialect = \"opena1\"\n").unwrap_err().to_string();
        assert!(unknown.starts_with("line 4: unknown variant `opena1`, expected one of `openai_chat`"), "{unknown}");
        let many = "[[providers]]\nname = \"a\"\nhosts = [\"x\"]\n".repeat(MAX_CUSTOM + 1);
        assert_eq!(parse(&many).unwrap_err().to_string(), "has more than 64 providers");
    }

    #[test]
    fn a_file_that_nobody_asked_for_need_not_be_there() {
        let directory = tempfile::tempdir().unwrap();
        let error = load(Some(&directory.path().join("none.toml"))).unwrap_err();
        assert!(format!("{error:#}").contains("none.toml: No such file"), "{error:#}");
        let large = directory.path().join("large.toml");
        std::fs::write(&large, vec![b'#'; 2 << 20]).unwrap();
        assert!(format!("{:#}", load(Some(&large)).unwrap_err()).ends_with("large.toml: it has more than 1 MiB"));
    }
}
