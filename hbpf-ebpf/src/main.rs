//! The programs. Each entry function is thin: it calls its `try_*` function and turns the outcome into what the
//! kernel expects. One file per area: [`tls`], [`go`] and [`aead`] (with [`wire`]), [`stdio`], [`tcp`], [`deferred`], [`lifecycle`]; [`block`], [`net`] and [`device`], which
//! only [`count`]. [`flow`] decides by what [`target`], [`http2`] and [`packet`] read, [`emit`] copies as much as [`budget`] allows;
//! [`maps`] has what outlives a call, [`number`] what the verifier has to be shown. [`empty`] has the programs that a bench
//! compares with.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod aead;
mod block;
mod budget;
mod count;
mod deferred;
mod device;
mod emit;
mod empty;
mod flow;
mod go;
mod http2;
mod lifecycle;
mod maps;
mod net;
mod number;
mod packet;
mod sealed;
mod stdio;
mod target;
mod tcp;
mod tls;
mod wire;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Never linked into a program that loads: the verifier refuses a loop without an end.
    loop {}
}

/// Some helpers are open only to programs that declare a GPL-compatible licence; MIT with GPL is one.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
