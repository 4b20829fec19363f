//! nginx's configuration.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::certificates::SERVER_NAME;
use super::envoy_form::{denied, unused};
use super::{Mode, Setup, Side};

/// Where distributions put the module for opaque TCP.
const MODULES: &[&str] = &["/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/share/nginx/modules"];

/// The module for opaque TCP, if it is installed.
pub(super) fn stream_module() -> Option<PathBuf> {
    let files = MODULES.iter().map(|folder| Path::new(folder).join("ngx_stream_module.so"));
    files.into_iter().find(|file| file.exists())
}

/// The configuration, all files under `scratch`.
pub(super) fn config(setup: &Setup, (listen, scratch): (SocketAddr, &Path), certificates: &Path) -> String {
    let scratch = scratch.display();
    let upstream = setup.upstream;
    let mut text = String::new();
    if setup.mode == Mode::Tcp
        && let Some(module) = stream_module()
    {
        let _ = writeln!(text, "load_module {};", module.display());
    }
    let _ = write!(
        text,
        "worker_processes 1; daemon off; pid {scratch}/nginx.pid; error_log {scratch}/error.log warn;\n\
         events {{ worker_connections 20000; }}\n"
    );
    if setup.mode == Mode::Tcp {
        let _ =
            writeln!(text, "stream {{ server {{ listen {listen} backlog=4096; proxy_pass {upstream}; }} }}");
        return text;
    }
    let connection = if setup.mode == Mode::WebSocket {
        "proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection \"upgrade\";"
    } else {
        "proxy_set_header Connection \"\";"
    };
    let _ = write!(
        text,
        "http {{ access_log off; keepalive_requests 100000000; keepalive_timeout 3600;\n \
         client_body_temp_path {scratch}/bodies; proxy_temp_path {scratch}/answers;\n \
         fastcgi_temp_path {scratch}/f; uwsgi_temp_path {scratch}/u; scgi_temp_path {scratch}/s;\n"
    );
    for number in 0..setup.clusters {
        // Places of a pool are allocated at once, so only the one that is used is large.
        let (endpoint, pool) = if number == 0 { (upstream, 2000) } else { (unused(number), 16) };
        let _ = writeln!(
            text,
            " upstream s{number} {{ server {endpoint}; keepalive {pool}; keepalive_requests 100000000; }}"
        );
    }
    let (client, server) = (setup.mode == Mode::Pair(Side::Client), setup.mode == Mode::Pair(Side::Server));
    let scheme = if client { "https" } else { "http" };
    let _ = writeln!(
        text,
        " server {{ listen {listen}{} backlog=4096; {}{}location / {{ proxy_pass {scheme}://s0; proxy_http_version 1.1; \
         {connection} proxy_buffers 16 32k; proxy_max_temp_file_size 0; {} }} }} }}",
        if server { " ssl" } else { "" },
        if server { downstream_tls(certificates) } else { String::new() },
        policy(setup.mode),
        if client { upstream_tls(certificates) } else { String::new() }
    );
    text
}

/// Rules that name paths that nobody asks for.
fn policy(mode: Mode) -> String {
    let Mode::Policy(rules) = mode else { return String::new() };
    (0..rules).fold(String::new(), |mut text, number| {
        let _ = writeln!(text, "  location = {} {{ return 403; }}", denied(number));
        text
    })
}

fn downstream_tls(certificates: &Path) -> String {
    let folder = certificates.display();
    format!(
        "ssl_protocols TLSv1.3; ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256; ssl_certificate {folder}/server.crt; \
         ssl_certificate_key {folder}/server.key; ssl_client_certificate {folder}/ca.pem; ssl_verify_client on; "
    )
}

fn upstream_tls(certificates: &Path) -> String {
    let folder = certificates.display();
    format!(
        "proxy_ssl_protocols TLSv1.3; proxy_ssl_certificate {folder}/client.crt; proxy_ssl_certificate_key \
         {folder}/client.key; proxy_ssl_trusted_certificate {folder}/ca.pem; proxy_ssl_verify on; proxy_ssl_name \
         {SERVER_NAME}; proxy_ssl_server_name on;"
    )
}
