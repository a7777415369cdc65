//! What is read of JSON answers: named places, and nothing else of them is stored.

use std::sync::LazyLock;

use jiff::Timestamp;

use crate::json::{Kind, Outcome, PathSet, Scanner, Value, Visitor, Want};
use crate::label::Label;
use crate::snapshot::EngineModel;

/// Most models of one server that are listed. A GPU has room for a handful.
const MAX_MODELS: usize = 32;

/// Most slots that are believed; llama.cpp allocates each one's cache at the start.
const MAX_SLOTS: u64 = 65_536;

/// Ollama's loaded models.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loaded {
    /// In the order in which they are told.
    pub models: Vec<EngineModel>,
}

/// llama.cpp's slots: places for requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slots {
    /// How many there are.
    pub total: u64,
    /// How many are at work.
    pub busy: u64,
    /// Context of one, in tokens.
    pub context_tokens: Option<u64>,
}

/// llama.cpp's properties.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Props {
    /// Its alias, or the name of its file.
    pub model: Option<Label>,
    /// How many requests it can compute at once.
    pub slots_total: Option<u64>,
    /// Context of one, in tokens.
    pub context_tokens: Option<u64>,
}

/// A JSON answer of one kind, as it comes.
#[derive(Debug)]
pub(super) struct Document<S: 'static, V> {
    scanner: Scanner<S>,
    pub(super) found: V,
}

impl<S: Copy, V: Visitor<S> + Default> Document<S, V> {
    fn new(paths: &'static PathSet<S>) -> Self {
        Self { scanner: Scanner::new(paths), found: V::default() }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.scanner.push(bytes, &mut self.found);
    }

    /// What was found; `None` where the answer was no whole document.
    fn end(mut self) -> Option<V> {
        (self.scanner.end(&mut self.found) == Outcome::Complete).then_some(self.found)
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum LoadedPlace {
    List,
    Model,
    Name,
    Memory,
    GpuMemory,
    Context,
    Expires,
}

static LOADED: LazyLock<PathSet<LoadedPlace>> = LazyLock::new(|| {
    use LoadedPlace::{Context, Expires, GpuMemory, List, Memory, Model, Name};
    PathSet::new(&[
        ("models", Want::Scalar, List),
        ("models[]", Want::Scalar, Model),
        ("models[].name", Want::Scalar, Name),
        ("models[].size", Want::Scalar, Memory),
        ("models[].size_vram", Want::Scalar, GpuMemory),
        ("models[].context_length", Want::Scalar, Context),
        ("models[].expires_at", Want::Scalar, Expires),
    ])
});

#[derive(Debug, Default)]
pub(super) struct LoadedFound {
    has_list: bool,
    model: EngineModel,
    models: Vec<EngineModel>,
}

impl Visitor<LoadedPlace> for LoadedFound {
    fn begin(&mut self, place: LoadedPlace, kind: Kind) {
        if matches!((place, kind), (LoadedPlace::Model, Kind::Container)) {
            self.model = EngineModel::default();
        }
    }

    fn value(&mut self, place: LoadedPlace, value: Value<'_>) {
        // A size of 0 is one that is not known; a model of no size there is not.
        match (place, value) {
            (LoadedPlace::List, Value::Container { .. }) => self.has_list = true,
            (LoadedPlace::Model, Value::Container { .. }) => {
                let model = std::mem::take(&mut self.model);
                if !model.name.is_empty() && self.models.len() < MAX_MODELS {
                    self.models.push(model);
                }
            }
            (LoadedPlace::Name, Value::Text(name)) => self.model.name = Label::from_bytes(name),
            (LoadedPlace::Memory, size) => self.model.memory_bytes = size.as_count().filter(|size| *size > 0),
            (LoadedPlace::GpuMemory, size) => self.model.gpu_memory_bytes = size.as_count(),
            (LoadedPlace::Context, length) => {
                self.model.context_tokens = length.as_count().filter(|length| *length > 0)
            }
            (LoadedPlace::Expires, Value::Text(time)) => {
                // Ollama writes its own zone's offset. A model that is kept for ever has a time in the far future.
                self.model.expires_at = std::str::from_utf8(time).ok().and_then(|time| time.parse::<Timestamp>().ok());
            }
            _ => {}
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum SlotPlace {
    Slot,
    Busy,
    Context,
}

static SLOTS: LazyLock<PathSet<SlotPlace>> = LazyLock::new(|| {
    use SlotPlace::{Busy, Context, Slot};
    PathSet::new(&[
        ("[].id", Want::Scalar, Slot),
        ("[].is_processing", Want::Scalar, Busy),
        ("[].n_ctx", Want::Scalar, Context),
    ])
});

#[derive(Debug, Default)]
pub(super) struct SlotsFound {
    slots: Slots,
    told: u64,
}

impl Visitor<SlotPlace> for SlotsFound {
    fn value(&mut self, place: SlotPlace, value: Value<'_>) {
        match (place, value) {
            (SlotPlace::Slot, Value::Number(_)) => self.slots.total += 1,
            (SlotPlace::Busy, Value::Bool(busy)) => {
                self.told += 1;
                self.slots.busy += u64::from(busy);
            }
            (SlotPlace::Context, value) => self.slots.context_tokens = value.as_count().filter(|length| *length > 0),
            _ => {}
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum PropPlace {
    Alias,
    File,
    Slots,
    Context,
}

static PROPS: LazyLock<PathSet<PropPlace>> = LazyLock::new(|| {
    use PropPlace::{Alias, Context, File, Slots};
    PathSet::new(&[
        ("model_alias", Want::Scalar, Alias),
        ("model_path", Want::Scalar, File),
        ("total_slots", Want::Scalar, Slots),
        ("default_generation_settings.n_ctx", Want::Scalar, Context),
    ])
});

#[derive(Debug, Default)]
pub(super) struct PropsFound {
    props: Props,
    file: Option<Label>,
}

impl Visitor<PropPlace> for PropsFound {
    fn value(&mut self, place: PropPlace, value: Value<'_>) {
        match (place, value) {
            (PropPlace::Alias, Value::Text(name)) => self.props.model = file_name(name),
            (PropPlace::File, Value::Text(path)) => self.file = file_name(path),
            (PropPlace::Slots, value) => self.props.slots_total = value.as_count().filter(|slots| *slots <= MAX_SLOTS),
            (PropPlace::Context, value) => self.props.context_tokens = value.as_count().filter(|length| *length > 0),
            _ => {}
        }
    }
}

/// The last part of a path: where a model's file lies is of no interest, and may be private.
fn file_name(path: &[u8]) -> Option<Label> {
    let name = path.rsplit(|byte| matches!(byte, b'/' | b'\\')).next().unwrap_or(path);
    (!name.is_empty()).then(|| Label::from_bytes(name))
}

pub(super) type LoadedDocument = Document<LoadedPlace, LoadedFound>;
pub(super) type SlotsDocument = Document<SlotPlace, SlotsFound>;
pub(super) type PropsDocument = Document<PropPlace, PropsFound>;

pub(super) fn loaded() -> LoadedDocument {
    Document::new(&LOADED)
}

pub(super) fn slots() -> SlotsDocument {
    Document::new(&SLOTS)
}

pub(super) fn props() -> PropsDocument {
    Document::new(&PROPS)
}

/// `None` where the document is not Ollama's.
pub(super) fn end_loaded(document: LoadedDocument) -> Option<Loaded> {
    document.end().filter(|found| found.has_list).map(|found| Loaded { models: found.models })
}

/// `None` where the document is no list of slots.
pub(super) fn end_slots(document: SlotsDocument) -> Option<Slots> {
    let found = document.end()?;
    let is_one = found.slots.total > 0 && found.told == found.slots.total && found.slots.total <= MAX_SLOTS;
    is_one.then_some(found.slots)
}

/// `None` where the document is not llama.cpp's.
pub(super) fn end_props(document: PropsDocument) -> Option<Props> {
    let PropsFound { mut props, file } = document.end()?;
    props.slots_total?;
    // Without an alias the server tells its file instead, or "none" where it has no model of its own.
    props.model = props.model.or(file.filter(|file| file.as_str() != "none"));
    Some(props)
}
