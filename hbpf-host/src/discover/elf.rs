//! Reads out of an ELF file where its TLS functions are.

/// A function that is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Symbol {
    /// `SSL_read`
    SslRead,
    /// `SSL_read_ex`
    SslReadEx,
    /// `SSL_write`
    SslWrite,
    /// `SSL_write_ex`
    SslWriteEx,
    /// `SSL_write_ex2`, OpenSSL 3.3 and later.
    SslWriteEx2,
    /// `SSL_free`
    SslFree,
    /// `SSL_new`
    SslNew,
}
