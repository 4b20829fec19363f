//! A name server that says what a test wants, and counts what it is asked.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;

/// What a name comes to: addresses and how many seconds they hold; a failure of the server without.
pub type Records = Option<(Vec<IpAddr>, u32)>;

/// Query types (RFC 1035 section 3.2.2, RFC 3596 section 2.1).
const A: u16 = 1;
const AAAA: u16 = 28;
/// Response codes (RFC 1035 section 4.1.1).
const SERVER_FAILURE: u8 = 2;
const NAME_ERROR: u8 = 3;

/// A running name server.
#[derive(Clone, Debug)]
pub struct Names {
    /// Where it is.
    pub port: u16,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    records: HashMap<String, Records>,
    asked: HashMap<String, usize>,
}

impl Names {
    /// Starts it, without any name.
    ///
    /// # Panics
    /// When there is no port for it.
    pub async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let port = socket.local_addr().expect("bound").port();
        let names = Self { port, state: Arc::default() };
        let state = Arc::clone(&names.state);
        tokio::spawn(async move {
            let mut query = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut query).await {
                answer(&socket, &query[..length], from, &state).await;
            }
        });
        names
    }

    /// What a name comes to from now on.
    ///
    /// # Panics
    /// Never, unless another test thread did.
    pub fn set(&self, name: &str, records: Records) {
        self.state.lock().expect("the table").records.insert(name.to_owned(), records);
    }

    /// How often the name was asked for, by any type.
    ///
    /// # Panics
    /// Never, unless another test thread did.
    #[must_use]
    pub fn asked(&self, name: &str) -> usize {
        self.state.lock().expect("the table").asked.get(name).copied().unwrap_or(0)
    }

    /// The fields of a cluster that make it ask here.
    #[must_use]
    pub fn resolver(&self) -> String {
        format!(
            "typed_dns_resolver_config: {{name: envoy.network.dns_resolver.cares, typed_config: \
             {{\"@type\": type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig, \
             resolvers: [{{socket_address: {{address: 127.0.0.1, port_value: {}}}}}], \
             dns_resolver_options: {{no_default_search_domain: true}}}}}}",
            self.port
        )
    }
}

async fn answer(socket: &UdpSocket, query: &[u8], from: SocketAddr, state: &Mutex<State>) {
    let Some((name, kind, end)) = question(query) else { return };
    let records = {
        let mut state = state.lock().expect("the table");
        *state.asked.entry(name.clone()).or_default() += 1;
        state.records.get(&name).cloned()
    };
    let (code, addresses, ttl) = match records {
        Some(Some((addresses, ttl))) => (0, addresses, ttl),
        Some(None) => (SERVER_FAILURE, Vec::new(), 0),
        None => (NAME_ERROR, Vec::new(), 0),
    };
    let fitting: Vec<&IpAddr> = addresses
        .iter()
        .filter(|address| (kind == A && address.is_ipv4()) || (kind == AAAA && address.is_ipv6()))
        .collect();
    // A response, with recursion, to one question.
    let mut reply = vec![query[0], query[1], 0x81, 0x80 | code, 0, 1];
    reply.extend(u16::try_from(fitting.len()).expect("few").to_be_bytes());
    reply.extend([0; 4]);
    reply.extend(&query[12..end]);
    for address in fitting {
        let bytes = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        // The name is that of the question, at byte 12.
        reply.extend([0xc0, 12]);
        reply.extend(kind.to_be_bytes());
        reply.extend([0, 1]);
        reply.extend(ttl.to_be_bytes());
        reply.extend(u16::try_from(bytes.len()).expect("short").to_be_bytes());
        reply.extend(bytes);
    }
    let _ = socket.send_to(&reply, from).await;
}

/// Name and type of the question, and where it ends.
fn question(query: &[u8]) -> Option<(String, u16, usize)> {
    let (mut labels, mut at) = (Vec::new(), 12);
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    let kind = u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]);
    Some((labels.join("."), kind, at + 4))
}
