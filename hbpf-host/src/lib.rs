//! The Linux side of hbpf: probes, processes, TLS libraries, and the privileged helper.
//!
//! [`privsep::split`] makes two processes of one. The helper keeps the privileges, owns everything in the kernel and reads
//! /proc; the other side gives them up, reads the shared ring ([`ring::EventRing`]) and talks to the helper through
//! [`privsep::HelperClient`].

pub mod btf;
pub mod collector;
mod cost;
mod decode;
mod devices;
pub mod discover;
pub mod doctor;
mod engines;
mod facts;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod governor;
mod gpu;
mod helper;
mod namespace;
pub mod privsep;
pub mod probes;
pub mod process;
pub mod protocol;
pub mod ring;
mod socket;
