//! Handing on what is seen: as a file, or to the clipboard.

use std::fmt::Write as _;

use hbpf_core::snapshot::Snapshot;
use hbpf_host::privsep::Refusal;
use jiff::Timestamp;
use ratatui::buffer::{Buffer, Cell};
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier};

use super::draw;
use super::settings::Settings;
use super::state::State;
use super::theme::Theme;

/// What can be handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Document {
    Snapshot,
    List,
    Text,
    Picture,
    /// How the view is looked at.
    Settings,
    Row,
}

impl Document {
    pub(crate) const ALL: [Self; 6] =
        [Self::Snapshot, Self::List, Self::Text, Self::Picture, Self::Settings, Self::Row];

    /// What is asked for when it is chosen.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot, as JSON",
            Self::List => "list with the keys, as CSV",
            Self::Text => "screen, as text",
            Self::Picture => "screen, as SVG",
            Self::Row => "selected row, to the clipboard",
            Self::Settings => "columns, orders, settings, as TOML",
        }
    }

    /// The name of its file, and how that ends.
    fn file_name(self, at: Timestamp, list: &str) -> (String, &'static str) {
        let list: String = list.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let (what, end) = match self {
            Self::Snapshot => ("snapshot".to_owned(), "json"),
            Self::List => (list.to_lowercase(), "csv"),
            Self::Text | Self::Row => ("screen".to_owned(), "txt"),
            Self::Picture => ("screen".to_owned(), "svg"),
            Self::Settings => ("view".to_owned(), "toml"),
        };
        (format!("hbpf-{}-{what}", at.strftime("%Y%m%dT%H%M%SZ")), end)
    }
}

/// Files of one kind that are made of one frame.
const MAX_OF_A_FRAME: usize = 99;

/// Takes what is handed on to where it goes.
pub(crate) trait Outlet {
    /// Makes a file and says where.
    fn file(&mut self, name: &str, content: &[u8]) -> Result<String, Refusal>;

    /// Copies to the terminal's clipboard.
    fn clipboard(&mut self, text: &str) -> Result<(), String>;
}

/// Hands a document on; says what the user is to be told.
pub(crate) fn hand_on(document: Document, state: &State, theme: &Theme, outlet: &mut dyn Outlet) -> String {
    let done = match (document, state.snapshot(), state.focused()) {
        (Document::Settings, _, _) => {
            let (name, end) = document.file_name(Timestamp::now(), "");
            file(outlet, &name, end, &Settings::of(state).to_toml())
        }
        (_, None, _) => Err("there is nothing yet".to_owned()),
        (Document::List | Document::Row, _, None) => Err("there is no list on this page".to_owned()),
        (Document::Row, _, Some(_)) => row(state)
            .ok_or_else(|| "no row is selected".to_owned())
            .and_then(|text| outlet.clipboard(&text))
            .map(|()| "copied, if this terminal lets programs set its clipboard (OSC 52)".to_owned()),
        (_, Some(snapshot), focused) => {
            let (name, end) = document.file_name(snapshot.captured_at, focused.map_or("", |shown| shown.id.name()));
            let content = match document {
                Document::Snapshot => json(snapshot),
                Document::List => focused.map_or(String::new(), |shown| shown.list.to_csv(&shown.wanted)),
                Document::Picture => picture(&screen(state, theme), if theme.is_light() { &LIGHT } else { &DARK }),
                Document::Text | Document::Row | Document::Settings => text(&screen(state, theme)),
            };
            file(outlet, &name, end, &content)
        }
    };
    done.unwrap_or_else(|error| error)
}

/// Makes a file; of a frame that stands several may be wanted.
fn file(outlet: &mut dyn Outlet, name: &str, end: &str, content: &str) -> Result<String, String> {
    let numbered = |number: usize| if number == 1 { format!("{name}.{end}") } else { format!("{name}-{number}.{end}") };
    let mut made = outlet.file(&numbered(1), content.as_bytes());
    for number in 2..=MAX_OF_A_FRAME {
        match made {
            Err(Refusal::Exists(_)) => made = outlet.file(&numbered(number), content.as_bytes()),
            _ => break,
        }
    }
    made.map(|place| format!("written: {place}")).map_err(|refusal| refusal.to_string())
}

fn json(snapshot: &Snapshot) -> String {
    // Its keys are all text.
    serde_json::to_string_pretty(snapshot).unwrap_or_default() + "\n"
}

/// The selected row, a line for each column.
fn row(state: &State) -> Option<String> {
    let shown = state.focused()?;
    let row = shown.list.rows.get(state.look(shown.id).cursor.row)?;
    let mut text = String::new();
    for index in &shown.wanted {
        let cell = &row.cells[*index];
        let _ = writeln!(text, "{:<12} {}{}", shown.list.columns[*index].title, cell.text, cell.mark);
    }
    Some(text)
}

/// The page as it stands, without what lies over it.
fn screen(state: &State, theme: &Theme) -> Buffer {
    let mut buffer = Buffer::empty(Rect::new(0, 0, state.size.0, state.size.1));
    draw::page_alone(&mut buffer, state, theme);
    buffer
}

fn rows(buffer: &Buffer) -> impl Iterator<Item = &[Cell]> {
    buffer.content.chunks(usize::from(buffer.area.width).max(1))
}

fn text(buffer: &Buffer) -> String {
    let line = |row: &[Cell]| row.iter().map(Cell::symbol).collect::<String>().trim_end().to_owned() + "\n";
    rows(buffer).map(line).collect()
}

/// Size of a character, in pixels.
const WIDTH: f64 = 8.4;
const HEIGHT: f64 = 18.0;

/// What a picture is drawn on, and what is drawn there that has no colour of its own.
struct Ground {
    back: &'static str,
    fore: &'static str,
}

const DARK: Ground = Ground { back: "#16181d", fore: "#d8dce4" };
const LIGHT: Ground = Ground { back: "#ffffff", fore: "#24292f" };

/// The screen as a picture that any browser shows, with text that can be copied.
fn picture(buffer: &Buffer, ground: &Ground) -> String {
    let (width, height) = (f64::from(buffer.area.width) * WIDTH, f64::from(buffer.area.height) * HEIGHT);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.1} {height:.1}\" width=\"{width:.0}\" \
         height=\"{height:.0}\" font-family=\"ui-monospace,monospace\" font-size=\"14\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"{}\"/>\n",
        ground.back
    );
    for (y, row) in rows(buffer).enumerate() {
        let mut x = 0;
        for run in row.chunk_by(|a, b| (a.fg, a.modifier) == (b.fg, b.modifier)) {
            let symbols: String = run.iter().map(Cell::symbol).collect();
            if let [first, ..] = run
                && (!symbols.trim().is_empty() || first.modifier.contains(Modifier::REVERSED))
            {
                piece(&mut out, (x, y), run.len(), first, &symbols, ground);
            }
            x += run.len();
        }
    }
    out + "</svg>\n"
}

/// A run of characters in one style.
fn piece(out: &mut String, (x, y): (usize, usize), cells: usize, style: &Cell, symbols: &str, ground: &Ground) {
    let (left, top, length) = (x as f64 * WIDTH, y as f64 * HEIGHT, cells as f64 * WIDTH);
    let mut fill = hex(style.fg, ground);
    if style.modifier.contains(Modifier::REVERSED) {
        let _ = writeln!(
            out,
            "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{length:.1}\" height=\"{HEIGHT:.1}\" fill=\"{fill}\"/>"
        );
        fill = ground.back.to_owned();
    }
    let weight = if style.modifier.contains(Modifier::BOLD) { " font-weight=\"bold\"" } else { "" };
    let opacity = if style.modifier.contains(Modifier::DIM) { " opacity=\"0.6\"" } else { "" };
    let base = top + HEIGHT * 0.75;
    let text = symbols.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(
        out,
        "<text x=\"{left:.1}\" y=\"{base:.1}\" textLength=\"{length:.1}\" lengthAdjust=\"spacingAndGlyphs\" \
         xml:space=\"preserve\" fill=\"{fill}\"{weight}{opacity}>{text}</text>"
    );
}

/// A colour of the theme. The sixteen are those of a dark ground: the theme for a light one has none of them.
fn hex(color: Color, ground: &Ground) -> String {
    let name = match color {
        Color::Red | Color::LightRed => "#ff6b6b",
        Color::Green | Color::LightGreen => "#69db7c",
        Color::Yellow | Color::LightYellow => "#ffd43b",
        Color::Blue | Color::LightBlue => "#74a9ff",
        Color::Cyan | Color::LightCyan => "#66d9e8",
        Color::Magenta | Color::LightMagenta => "#da77f2",
        Color::Rgb(red, green, blue) => return format!("#{red:02x}{green:02x}{blue:02x}"),
        // The cube of 6 by 6 by 6 colours, of which the palettes have all of theirs.
        Color::Indexed(index @ 16..=231) => {
            let part = |step: u8| if step == 0 { 0 } else { 55 + 40 * step };
            let index = index - 16;
            return format!("#{:02x}{:02x}{:02x}", part(index / 36), part(index / 6 % 6), part(index % 6));
        }
        _ => ground.fore,
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{UTF8, watched};
    use super::super::theme::{Environment, Palette};
    use super::*;
    use crate::ui::state::Action;

    /// Remembers what was handed on.
    #[derive(Default)]
    struct Kept {
        files: Vec<(String, String)>,
        copied: Option<String>,
    }

    impl Outlet for Kept {
        fn file(&mut self, name: &str, content: &[u8]) -> Result<String, Refusal> {
            if self.files.iter().any(|(known, _)| known == name) {
                return Err(Refusal::Exists("it is there".to_owned()));
            }
            self.files.push((name.to_owned(), String::from_utf8(content.to_vec()).unwrap()));
            Ok(format!("/tmp/{name}"))
        }

        fn clipboard(&mut self, text: &str) -> Result<(), String> {
            self.copied = Some(text.to_owned());
            Ok(())
        }
    }

    fn all(state: &State) -> Kept {
        let mut kept = Kept::default();
        for document in Document::ALL {
            hand_on(document, state, &Theme::new(&UTF8), &mut kept);
        }
        kept
    }

    #[test]
    fn each_document_says_what_is_seen() {
        let mut state = watched((120, 40));
        let kept = all(&state);
        let [json, csv, text, svg, toml] = &kept.files[..] else { panic!("{:?}", kept.files.len()) };
        assert_eq!(json.0, "hbpf-20261122T193000Z-snapshot.json");
        let again: Snapshot = serde_json::from_str(&json.1).unwrap();
        assert!(state.snapshot().is_some_and(|shown| shown.captured_at == again.captured_at));
        assert!(csv.0.ends_with("-processes.csv") && csv.1.starts_with("PID,USER,COMMAND,"), "{}", csv.1);
        assert_eq!(csv.1.lines().count(), 1 + again.processes.len());
        let text = text.1.clone();
        assert!(text.contains("vllm serve") && !text.contains("q quit"), "the keys are nobody's business");
        assert!(svg.1.starts_with("<svg ") && svg.1.ends_with("</svg>\n") && svg.1.contains("vllm serve"));
        assert_eq!(svg.1.matches("<text ").count(), svg.1.matches("</text>").count());
        assert!(toml.0.ends_with("-view.toml") && toml.1.contains("[view]\n"), "{}", toml.1);
        assert!(kept.copied.as_ref().unwrap().contains("COMMAND      vllm serve"));
        // Several of one frame.
        let mut kept = kept;
        hand_on(Document::Text, &state, &Theme::new(&UTF8), &mut kept);
        assert_eq!(kept.files.last().unwrap().0, "hbpf-20261122T193000Z-screen-2.txt");
        // On the ground that the theme is for.
        let light = Theme::new(&Environment { palette: Palette::Light, ..UTF8 });
        hand_on(Document::Picture, &state, &light, &mut kept);
        let ground = |svg: &str| svg.lines().nth(1).map(str::to_owned);
        assert!(ground(&kept.files.last().unwrap().1).is_some_and(|line| line.contains(LIGHT.back)));
        assert!(ground(&kept.files[3].1).is_some_and(|line| line.contains(DARK.back)));
        // What lies over the page is not handed on.
        state.apply(Action::Show(crate::ui::state::Overlay::Save));
        assert_eq!(all(&state).files[2].1, text);
    }

    #[test]
    fn with_made_up_names_no_document_has_the_real_ones() {
        let mut state = watched((200, 60));
        state.apply(Action::TogglePrivacy);
        let kept = all(&state);
        let texts = kept.files.iter().map(|(_, content)| content).chain(&kept.copied);
        for text in texts {
            for private in ["gpu-node-7", "svc-rag", "rag_worker", "api.openai.com", "litellm --port"] {
                assert!(!text.contains(private), "{private}: {text}");
            }
        }
        state.apply(Action::TogglePrivacy);
        assert!(all(&state).files[0].1.contains("gpu-node-7"));
    }
}
