//! Which GPUs would be read. NVIDIA's management library is looked for, not loaded: its code runs only where GPUs are read.

use std::path::Path;

use super::{Check, Outcome};
use crate::gpu::{card_names, library};

pub(super) fn library() -> Check {
    match (library::find(), library::is_driver_loaded()) {
        (Some(path), true) => Check::new("GPU library", Outcome::Ok, path.display().to_string()),
        (Some(path), false) => {
            Check::new("GPU library", Outcome::Ok, format!("{}, but no driver is loaded", path.display()))
        }
        (None, false) => Check::new("GPU library", Outcome::Ok, "no NVIDIA driver is loaded"),
        (None, true) => {
            Check::new("GPU library", Outcome::Warn, "an NVIDIA driver is loaded, but there is no libnvidia-ml.so.1")
                .advise("install the driver's libraries; in a container, set NVIDIA_DRIVER_CAPABILITIES=utility")
        }
    }
}

/// AMD's and Intel's, if there are any.
pub(super) fn cards() -> Option<Check> {
    let names = card_names(Path::new("/sys"));
    (!names.is_empty()).then(|| Check::new("GPUs", Outcome::Ok, names.join(", ")))
}
