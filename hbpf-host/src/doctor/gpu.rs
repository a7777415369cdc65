//! Whether NVIDIA's management library is there. It is looked for, not loaded: its code runs only where GPUs are read.

use super::{Check, Outcome};
use crate::gpu::library;

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
