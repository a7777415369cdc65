//! A stand-in LLM server: the OpenAI, Anthropic and Ollama APIs without a model behind them, plain and over TLS.
//!
//! How soon, how fast and how long it answers, and what goes wrong, is told on the command line, in the model's name or
//! in the request; it writes down what it truly did, so that hbpf's numbers can be compared with it.

mod behaviour;
mod dialect;
mod http;
mod record;
mod serve;
mod tls;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{io, thread};

use anyhow::Context;
use clap::Parser;
use serde_json::json;

use crate::behaviour::Defaults;
use crate::record::Record;
use crate::serve::Server;

/// A stand-in LLM server to try and test hbpf on
///
/// A request can say how it wants to be answered. In the model's name, between dashes: 200ms (time to first token), 50tps
/// (tokens per second), 64tok (tokens of the answer), 100in (prompt tokens), 32cached, 8written, 10think (reasoning
/// tokens), 4each (tokens per event), 8atonce (events per write), 429err (HTTP error), 1tries (only so many tries fail),
/// 5errafter (error in the stream), 5cutafter (cut connection), gzip. Or in the body: {"demo": {"ttft_ms", "rate",
/// "tokens", "input", "cached", "cache_written", "reasoning", "per_event", "at_once", "status", "attempts",
/// "retry_after", "error_after", "cut_after", "gzip", "word"}}.
#[derive(Debug, Parser)]
#[command(name = "hbpf-demo-server", version)]
struct Args {
    /// Serve plain HTTP here; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    plain: SocketAddr,
    /// Serve TLS here; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    tls: SocketAddr,
    /// Write ca.pem, for clients to verify with, and the server's certificate here; without it there is no TLS
    #[arg(long, value_name = "DIRECTORY")]
    certificates: Option<PathBuf>,
    /// Stop when standard input is closed, so as not to outlive whoever started it
    #[arg(long)]
    stop_with_stdin: bool,
    /// Write one JSON line per exchange here
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    #[command(flatten)]
    defaults: Defaults,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let server = Server::new(args.defaults, Record::create(args.record.as_deref())?);
    let plain = listen(args.plain)?;
    let tls = args
        .certificates
        .as_deref()
        .map(|to| anyhow::Ok((listen(args.tls)?, tls::config(to, args.tls.ip())?)))
        .transpose()?;

    // Whoever started this server learns from this line that it is ready, and where.
    let tls_address = tls.as_ref().map(|(listener, _)| listener.local_addr()).transpose()?;
    println!("{}", json!({"plain": plain.local_addr()?, "tls": tls_address, "pid": std::process::id()}));

    if args.stop_with_stdin {
        thread::spawn(|| {
            // An end and an error mean the same: nobody is there any more.
            let _ = io::copy(&mut io::stdin(), &mut io::sink());
            std::process::exit(0);
        });
    }

    let connections = Arc::new(AtomicU64::new(0));
    let tls_thread = tls.map(|(listener, config)| {
        let (server, connections) = (Arc::clone(&server), Arc::clone(&connections));
        thread::spawn(move || {
            accept(&listener, &connections, move |stream, number| {
                let connection = rustls::ServerConnection::new(Arc::clone(&config))?;
                server.serve(rustls::StreamOwned::new(connection, stream), number, true)
            })
        })
    });
    accept(&plain, &connections, move |stream, number| server.serve(stream, number, false))?;
    tls_thread.map_or(Ok(()), |thread| thread.join().unwrap_or_else(|_| anyhow::bail!("the TLS listener panicked")))
}

fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))
}

/// One thread per connection: some dozens are expected, and the pace of each answer is then its thread's own.
fn accept<F>(listener: &TcpListener, connections: &AtomicU64, serve: F) -> anyhow::Result<()>
where
    F: Fn(TcpStream, u64) -> anyhow::Result<()> + Clone + Send + 'static,
{
    for stream in listener.incoming() {
        let stream = match stream {
            Ok(stream) => stream,
            // The client was gone before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error).context("cannot accept connections"),
        };
        // Each event is one segment, as servers that stream set it.
        stream.set_nodelay(true)?;
        let (serve, number) = (serve.clone(), connections.fetch_add(1, Ordering::Relaxed));
        thread::spawn(move || {
            // What ends a connection early (a reset, a client that gives up on TLS) is in the record where it matters.
            let _ = serve(stream, number);
        });
    }
    Ok(())
}
