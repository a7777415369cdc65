//! Ends TLS by rustls and passes on what is inside: `proxy UPSTREAM_ADDRESS CERTIFICATE KEY SUITES`. Of the cipher suites only those are
//! used that have SUITES in their name, such as `TLS13_CHACHA20`.
//!
//! Prints `{"port": ...}` and ends when standard input does.

use std::error::Error;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, upstream, certificate, key, suites] = &arguments[..] else { return Err("see the head of the source".into()) };
    let upstream: SocketAddr = upstream.parse()?;
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|suite| format!("{:?}", suite.suite()).contains(suites));
    let certificates = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
    let mut config = ServerConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates, PrivateKeyDer::from_pem_file(key)?)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", serde_json::json!({ "port": listener.local_addr()?.port() }));
        loop {
            let (client, _) = listener.accept().await?;
            tokio::spawn(serve(acceptor.clone(), client, upstream));
        }
    })
}

/// One connection, until either side ends it.
async fn serve(acceptor: TlsAcceptor, client: TcpStream, upstream: SocketAddr) {
    let Ok(mut client) = acceptor.accept(client).await else { return };
    let Ok(mut upstream) = TcpStream::connect(upstream).await else { return };
    let _ = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
}
