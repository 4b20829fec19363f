//! nginx's configuration.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::envoy_form::unused;
use super::{Mode, Setup};

/// Where distributions put the module for opaque TCP.
const MODULES: &[&str] = &["/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/share/nginx/modules"];

/// The module for opaque TCP, if it is installed.
pub(super) fn stream_module() -> Option<PathBuf> {
    let files = MODULES.iter().map(|folder| Path::new(folder).join("ngx_stream_module.so"));
    files.into_iter().find(|file| file.exists())
}

/// The configuration, all files under `scratch`.
pub(super) fn config(setup: &Setup, listen: SocketAddr, scratch: &Path) -> String {
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
    let _ = writeln!(
        text,
        " server {{ listen {listen} backlog=4096; location / {{ proxy_pass http://s0; proxy_http_version 1.1; \
         {connection} proxy_buffers 16 32k; proxy_max_temp_file_size 0; }} }} }}"
    );
    text
}
