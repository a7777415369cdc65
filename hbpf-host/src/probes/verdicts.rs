//! The kernel's map of verdicts, which is written by a thread of its own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::maps::{HashMap, MapData};
use hbpf_ebpf::{action, source};

use super::ProbeError;
use crate::protocol::FlowVerdict;

/// The map while it is loaded, and what went wrong with it last.
#[derive(Clone, Default)]
pub(crate) struct Verdicts(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    map: Option<HashMap<MapData, Key, Value>>,
    error: Option<ProbeError>,
}

impl Verdicts {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Whoever panicked has written one verdict, or not.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_map(&self, map: Option<HashMap<MapData, Key, Value>>) {
        self.lock().map = map;
    }

    /// Tells the kernel a judgement about a connection. What makes no sense is passed over.
    pub(crate) fn carry_out(&self, verdict: &FlowVerdict) {
        let mut inner = self.lock();
        // Nothing is loaded when the groups were switched off while the verdict travelled.
        let Some(map) = inner.map.as_mut().filter(|_| is_known(verdict)) else { return };
        let key = Key(hbpf_ebpf::FlowKey {
            handle: verdict.handle,
            generation: verdict.generation,
            pid: if verdict.source == source::TLS { verdict.pid } else { 0 },
            source: verdict.source.into(),
        });
        let value = Value(hbpf_ebpf::Verdict { message: verdict.message, action: verdict.action });
        if let Err(error) = map.insert(key, value, 0) {
            inner.error = Some(ProbeError::new("map VERDICTS", &error));
        }
    }

    pub(super) fn take_error(&self) -> Option<ProbeError> {
        self.lock().error.take()
    }
}

/// Whether the kernel's side knows what to do with it.
fn is_known(verdict: &FlowVerdict) -> bool {
    matches!(verdict.source, source::TLS | source::TCP)
        && matches!(
            verdict.action,
            action::IGNORE | action::CAPTURE | action::THIN_RESPONSE | action::OPAQUE | action::STREAM
        )
}

#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Key(hbpf_ebpf::FlowKey);

// SAFETY: two `u64` and two `u32` without padding.
unsafe impl aya::Pod for Key {}

#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Value(hbpf_ebpf::Verdict);

// SAFETY: two `u32` without padding.
unsafe impl aya::Pod for Value {}
