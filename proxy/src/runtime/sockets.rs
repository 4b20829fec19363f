//! Listening sockets: bound by the control thread, so that a port that is taken is known before a listener is
//! accepted, and one for each worker, so that the kernel spreads connections without a lock.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};

use crate::model::Listener;

/// Connections that may wait to be accepted, per socket.
const BACKLOG: i32 = 1024;

/// The sockets of one listener.
#[derive(Debug)]
pub struct BoundListener {
    /// Where they really listen: a port 0 has become a number.
    pub address: SocketAddr,
    wanted: (SocketAddr, bool),
    sockets: Vec<TcpListener>,
}

impl BoundListener {
    fn bind(address: SocketAddr, dual_stack: bool, workers: usize) -> io::Result<Self> {
        let mut sockets: Vec<TcpListener> = Vec::with_capacity(workers);
        let mut bound = address;
        for _ in 0..workers {
            let socket = socket(bound, dual_stack)?;
            bound = socket.local_addr()?;
            sockets.push(socket);
        }
        Ok(Self { address: bound, wanted: (address, dual_stack), sockets })
    }

    /// A handle on the socket of this worker.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn of_worker(&self, worker: usize) -> io::Result<TcpListener> {
        match self.sockets.get(worker) {
            Some(socket) => socket.try_clone(),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

fn socket(address: SocketAddr, dual_stack: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!dual_stack)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The sockets of all listeners, by listener name.
#[derive(Debug, Default)]
pub struct Sockets {
    by_name: HashMap<Arc<str>, Arc<BoundListener>>,
    workers: usize,
}

impl Sockets {
    /// No sockets, for so many workers.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self { by_name: HashMap::new(), workers }
    }

    /// The sockets for a listener: those that it had, or new ones.
    ///
    /// # Errors
    /// Why the address cannot be listened on.
    pub fn bind(&mut self, listener: &Listener) -> Result<Arc<BoundListener>, String> {
        let wanted = (listener.address, listener.dual_stack);
        if let Some(bound) = self.by_name.get(&listener.name).filter(|bound| bound.wanted == wanted) {
            return Ok(Arc::clone(bound));
        }
        // With SO_REUSEPORT the kernel would share the port between two of our own listeners.
        let taken =
            |bound: &Arc<BoundListener>| bound.wanted.0 == listener.address && listener.address.port() != 0;
        if let Some((name, _)) =
            self.by_name.iter().find(|(name, bound)| **name != listener.name && taken(bound))
        {
            return Err(format!("address: listener \"{name}\" has the same"));
        }
        let bound = BoundListener::bind(listener.address, listener.dual_stack, self.workers)
            .map_err(|error| format!("address: cannot listen on {}: {error}", listener.address))?;
        let bound = Arc::new(bound);
        self.by_name.insert(Arc::clone(&listener.name), Arc::clone(&bound));
        Ok(bound)
    }

    /// Forgets the sockets of listeners that are not kept; they close when no worker uses them any more.
    pub fn keep(&mut self, keep: impl Fn(&str) -> bool) {
        self.by_name.retain(|name, _| keep(name));
    }

    /// The sockets by name, to be published.
    #[must_use]
    pub fn all(&self) -> HashMap<Arc<str>, Arc<BoundListener>> {
        self.by_name.clone()
    }
}
