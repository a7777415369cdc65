use aya_ebpf::{
    macros::{uprobe, uretprobe},
    programs::{ProbeContext, RetProbeContext},
};
#[repr(C)]
pub struct ConnectionKey {
    pub ssl: u64,
    pub pid: u32,
    pub zero: u32,
}
#[repr(C)]
pub struct Connection {
    pub a: [u64; 80],
}
#[repr(C)]
pub struct Call {
    pub a: [u64; 12],
}
macro_rules! e { ($($n:ident)*) => { $(#[uprobe] pub fn $n(_ctx: ProbeContext) -> u32 { 0 })* } }
macro_rules! r { ($($n:ident)*) => { $(#[uretprobe] pub fn $n(_ctx: RetProbeContext) -> u32 { 0 })* } }
e!(ssl_write ssl_write_ex ssl_write_ex2 ssl_read ssl_read_ex ssl_free);
r!(ssl_write_return ssl_write_ex_return ssl_read_return ssl_read_ex_return ssl_new_return);
