//! A certificate authority that lives as long as the server.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// A name that is known for models, for clients that are told that it is here.
const KNOWN_HOST: &str = "api.openai.com";

/// Makes an authority and a certificate for this host's loopback names and the address it serves at, and writes them to `directory`: `ca.pem`, with
/// which clients verify, and `server.pem` and `server-key.pem`, with which another server can stand under the same name.
pub(crate) fn config(directory: &Path, address: IpAddr) -> anyhow::Result<Arc<ServerConfig>> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    // Python 3.13 and later refuse an authority that does not say what its key is for.
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    ca.distinguished_name.push(DnType::CommonName, "hbpf demo authority");
    let ca_cert = ca.self_signed(&ca_key)?;
    write(directory, "ca.pem", &ca_cert.pem())?;

    let leaf_key = KeyPair::generate()?;
    let mut leaf = CertificateParams::new(vec![
        "localhost".into(),
        KNOWN_HOST.into(),
        "127.0.0.1".into(),
        "::1".into(),
        address.to_string(),
    ])?;
    leaf.distinguished_name.push(DnType::CommonName, "localhost");
    leaf.use_authority_key_identifier_extension = true;
    let leaf_cert = leaf.signed_by(&leaf_key, &Issuer::from_params(&ca, &ca_key))?;

    write(directory, "server.pem", &leaf_cert.pem())?;
    write(directory, "server-key.pem", &leaf_key.serialize_pem())?;

    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![leaf_cert.der().clone()], key)?;
    // Clients that offer HTTP/2 are told that there is none.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn write(directory: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let path = directory.join(name);
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}
