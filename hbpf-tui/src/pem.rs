//! Small files that others write: tokens, keys and certificates.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Largest that is read.
const MAX_FILE: u64 = 1 << 20;

/// Reads one of them.
///
/// # Errors
///
/// If it cannot be read, or is none of these for its size.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(bytes.len() as u64 <= MAX_FILE, "{} has more than 1 MiB", path.display());
    Ok(bytes)
}

/// The certificates in a file, at least one.
///
/// # Errors
///
/// If there is none.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    let found = found.ok().filter(|found| !found.is_empty());
    found.with_context(|| format!("{}: no certificates in PEM", path.display()))
}

/// The private key in a file.
///
/// # Errors
///
/// If there is none.
pub(crate) fn key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    let key = PrivateKeyDer::from_pem_slice(&read(path)?);
    key.with_context(|| format!("{}: no private key in PEM", path.display()))
}

/// Who may vouch for a server: those in a file, or those that the system trusts.
///
/// # Errors
///
/// If there is nobody.
pub(crate) fn roots(path: Option<&Path>) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    match path {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).with_context(|| path.display().to_string())?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            ensure!(!roots.is_empty(), "the system has no certificates to check servers by");
        }
    }
    Ok(roots)
}
