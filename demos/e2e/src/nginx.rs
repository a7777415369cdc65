//! A real proxy.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::{Server, skip};

/// An nginx that speaks HTTP/2, over TLS and plain, to clients, and HTTP/1.1 to the server behind it.
pub struct Nginx {
    child: Child,
    /// Where it speaks TLS.
    pub tls: u16,
    /// Where it does not; HTTP/2 only.
    pub plain: u16,
    _places: TempDir,
}

impl Nginx {
    /// Starts one in front of this server; `None` where there is none, which is told.
    pub fn start(server: &Server) -> Option<Self> {
        if Command::new("nginx").arg("-v").output().is_err() {
            skip("HBPF_REQUIRE_CLIENTS", "there is no nginx (Debian has it in the package nginx-light)");
            return None;
        }
        let places = tempfile::tempdir().expect("a temporary directory");
        let [tls, plain] = [free_port(), free_port()];
        let configuration = places.path().join("nginx.conf");
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary = temporary.map(|kind| format!("{kind}_temp_path {}/{kind};", places.path().display())).concat();
        let text = format!(
            "daemon off; user root; worker_processes 1; worker_rlimit_nofile 16384; pid {place}/pid; error_log {place}/error;\n\
             events {{ worker_connections 8192; }}\n\
             http {{ access_log off; {temporary} http2_max_concurrent_streams 256; keepalive_requests 100000;\n\
             server {{ listen 127.0.0.1:{tls} ssl http2; listen 127.0.0.1:{plain} http2;\n\
             ssl_certificate {certificate}; ssl_certificate_key {key};\n\
             location / {{ proxy_pass {upstream}; proxy_http_version 1.1; proxy_buffering off; }} }} }}\n",
            place = places.path().display(),
            certificate = server.certificate("server.pem").display(),
            key = server.certificate("server-key.pem").display(),
            upstream = server.plain_url(),
        );
        std::fs::write(&configuration, text).expect("it can be written");
        let mut child =
            Command::new("nginx").arg("-c").arg(&configuration).stderr(Stdio::null()).spawn().expect("it starts");
        while TcpStream::connect((Ipv4Addr::LOCALHOST, tls)).is_err() {
            assert!(child.try_wait().is_ok_and(|status| status.is_none()), "nginx ended");
            std::thread::yield_now();
        }
        Some(Self { child, tls, plain, _places: places })
    }

    /// The process that serves.
    pub fn worker(&self) -> u32 {
        crate::children(self.child.id())[0]
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Killed otherwise, it would leave its worker behind.
        let _ = kill(Pid::from_raw(i32::try_from(self.child.id()).expect("a pid")), Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

/// Free a moment ago, and so most likely now.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|free| free.local_addr()).expect("a loopback port").port()
}
