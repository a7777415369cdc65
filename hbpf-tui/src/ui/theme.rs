//! Colours and symbols by role, as far as the terminal and the user want them.

use clap::ValueEnum;
use ratatui::style::{Color, Modifier, Style};
use serde::{Deserialize, Serialize};

use crate::table::Tone;

/// Colours by role.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Palette {
    /// The terminal's own 16 colours
    #[default]
    Default,
    /// The bright ones of the terminal's 16 colours, and nothing dim
    HighContrast,
    /// Blue, orange and yellow, which are told apart without red and green; 256 colours
    ColorBlind,
    /// Dark colours for a light background; 256 colours
    Light,
    /// Soft colours for a dark background; true colour
    Soft,
    /// No colours
    Mono,
}

/// The colours of a palette.
struct Colors {
    good: Color,
    warn: Color,
    bad: Color,
    accent: Color,
    bar: Color,
}

impl Palette {
    /// None where there are none.
    fn colors(self) -> Option<Colors> {
        let [good, warn, bad, accent, bar] = match self {
            Self::Default => [Color::Green, Color::Yellow, Color::Red, Color::Cyan, Color::Blue],
            Self::HighContrast => {
                [Color::LightGreen, Color::LightYellow, Color::LightRed, Color::LightCyan, Color::LightBlue]
            }
            // As Okabe and Ito have chosen them, in the nearest of 256.
            Self::ColorBlind => [39, 220, 208, 117, 32].map(Color::Indexed),
            Self::Light => [28, 130, 160, 24, 26].map(Color::Indexed),
            Self::Soft => [0x8f_c9_8a, 0xe5_c0_7b, 0xe0_6c_75, 0x7f_c8_d8, 0x6f_9b_d8].map(Color::from_u32),
            Self::Mono => return None,
        };
        Some(Colors { good, warn, bad, accent, bar })
    }
}

/// What the environment and the user say of the terminal.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment {
    pub(crate) palette: Palette,
    /// NO_COLOR is set and not empty.
    pub(crate) no_color: bool,
    /// The locale's encoding is UTF-8.
    pub(crate) utf8: bool,
}

impl Environment {
    /// Reads NO_COLOR and the locale.
    pub(crate) fn read(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        // The order in which the C library looks.
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set).unwrap_or_default().to_lowercase();
        let palette = Palette::default();
        Self { palette, no_color: set("NO_COLOR").is_some(), utf8: locale.contains("utf-8") || locale.contains("utf8") }
    }
}

/// Characters to draw with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Symbols {
    /// Horizontal rule.
    pub(crate) rule: char,
    /// Bars of rising height, from nothing to full.
    pub(crate) bars: [char; 9],
    /// Shades of a heat map, from nothing to full.
    pub(crate) shades: [char; 5],
    /// The used and the free part of a meter.
    pub(crate) meter: [char; 2],
    /// Marks of what is on and of what is not.
    pub(crate) on: char,
    pub(crate) off: char,
    pub(crate) ascending: char,
    pub(crate) descending: char,
    pub(crate) ellipsis: char,
    pub(crate) separator: &'static str,
    /// Between a page and one that it led to.
    pub(crate) into: &'static str,
    /// Stands before a sum of which a part is not known.
    pub(crate) at_least: &'static str,
    /// Whether text may hold more than ASCII.
    pub(crate) unicode: bool,
}

pub(crate) const UNICODE: Symbols = Symbols {
    rule: '─',
    bars: [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'],
    shades: [' ', '░', '▒', '▓', '█'],
    meter: ['■', '·'],
    on: '●',
    off: '○',
    ascending: '▲',
    descending: '▼',
    ellipsis: '…',
    separator: " · ",
    into: " › ",
    at_least: "≥",
    unicode: true,
};

const ASCII: Symbols = Symbols {
    rule: '-',
    // Two heights in a cell are all that ASCII can show.
    bars: [' ', '.', '.', ':', ':', '|', '|', '#', '#'],
    shades: [' ', '.', ':', '*', '#'],
    meter: ['#', '.'],
    on: '+',
    off: '-',
    ascending: '^',
    descending: 'v',
    ellipsis: '+',
    separator: " | ",
    into: " > ",
    at_least: ">=",
    unicode: false,
};

/// Styles by role.
#[derive(Clone, Debug)]
pub(crate) struct Theme {
    palette: Palette,
    pub(crate) symbols: Symbols,
}

impl Theme {
    pub(crate) fn new(environment: &Environment) -> Self {
        // Whoever has set that variable has meant all programs.
        let palette = if environment.no_color { Palette::Mono } else { environment.palette };
        Self { palette, symbols: if environment.utf8 { UNICODE } else { ASCII } }
    }

    /// Whether its colours are for a light background.
    pub(crate) fn is_light(&self) -> bool {
        self.palette == Palette::Light
    }

    /// Without colours none is set at all: crossterm turns colours under NO_COLOR into resets, which undo reverse video.
    fn style(&self, color: fn(&Colors) -> Color, modifier: Modifier) -> Style {
        let style = Style::new().add_modifier(modifier);
        self.palette.colors().map_or(style, |colors| style.fg(color(&colors)))
    }

    pub(crate) fn tone(&self, tone: Tone) -> Style {
        let plain = Style::new();
        match tone {
            Tone::Plain => plain,
            Tone::Dim if self.palette == Palette::HighContrast => plain,
            Tone::Dim => plain.add_modifier(Modifier::DIM),
            Tone::Strong => plain.add_modifier(Modifier::BOLD),
            Tone::Good => self.style(|colors| colors.good, Modifier::empty()),
            Tone::Warn => self.style(|colors| colors.warn, Modifier::empty()),
            Tone::Bad => self.style(|colors| colors.bad, Modifier::BOLD),
            Tone::Accent => self.style(|colors| colors.accent, Modifier::empty()),
        }
    }

    /// The title of a panel; the one that has the keys stands out.
    pub(crate) fn title(&self, focused: bool) -> Style {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        if focused { self.style(|colors| colors.accent, Modifier::BOLD) } else { bold }
    }

    pub(crate) fn table_head(&self, sorted: bool) -> Style {
        Style::new().add_modifier(if sorted { Modifier::REVERSED } else { Modifier::UNDERLINED })
    }

    /// The selected row: reverse video alone is visible with any palette, and without one.
    pub(crate) fn selected(&self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    pub(crate) fn key(&self) -> Style {
        self.style(|colors| colors.accent, Modifier::BOLD)
    }

    /// The word that says whether what is shown is live.
    pub(crate) fn mode(&self, tone: Tone) -> Style {
        self.tone(tone).add_modifier(Modifier::BOLD | Modifier::REVERSED)
    }

    pub(crate) fn spark(&self) -> Style {
        self.style(|colors| colors.good, Modifier::empty())
    }

    pub(crate) fn bar(&self) -> Style {
        self.style(|colors| colors.bar, Modifier::empty())
    }

    /// The text as this terminal can show it; bars are still bars.
    pub(crate) fn text<'a>(&self, text: &'a str) -> std::borrow::Cow<'a, str> {
        if self.symbols.unicode || text.is_ascii() {
            return text.into();
        }
        let ascii = |c: char| match UNICODE.bars.iter().position(|bar| *bar == c) {
            _ if c.is_ascii() => c,
            Some(height) => self.symbols.bars[height],
            None => '?',
        };
        text.chars().map(ascii).collect::<String>().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment::read(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn the_locale_is_looked_up_as_the_c_library_does() {
        assert!(environment(&[("LANG", "en_US.UTF-8")]).utf8);
        assert!(environment(&[("LC_ALL", ""), ("LANG", "C.utf8")]).utf8);
        assert!(!environment(&[("LC_ALL", "C"), ("LANG", "en_US.UTF-8")]).utf8);
        assert!(!environment(&[]).utf8);
    }

    #[test]
    fn no_color_leaves_modifiers_alone() {
        let colored = Theme::new(&environment(&[("NO_COLOR", ""), ("LANG", "C.UTF-8")]));
        let plain = Theme::new(&environment(&[("NO_COLOR", "1"), ("LANG", "C.UTF-8")]));
        assert_eq!(colored.tone(Tone::Bad).fg, Some(Color::Red));
        for style in
            [plain.tone(Tone::Bad), plain.title(true), plain.key(), plain.spark(), plain.bar(), plain.mode(Tone::Good)]
        {
            assert_eq!((style.fg, style.bg), (None, None));
        }
        assert!(plain.selected().add_modifier.contains(Modifier::REVERSED));
    }

    #[test]
    fn an_ascii_terminal_gets_ascii() {
        let theme = Theme::new(&Environment::default());
        assert_eq!(theme.text("modèle 模型 ▁█"), "mod?le ?? .#");
        let s = &theme.symbols;
        let all = [s.rule, s.on, s.off, s.ascending, s.descending, s.ellipsis];
        assert!(
            all.iter().chain(&s.bars).chain(&s.shades).chain(&s.meter).all(char::is_ascii)
                && s.separator.is_ascii()
                && s.into.is_ascii()
                && s.at_least.is_ascii()
        );
    }
}
