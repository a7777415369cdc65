//! Reads `/proc/PID/maps`.
