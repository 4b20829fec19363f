//! Listening sockets: bound by the control thread, so that a port that is taken is known before a listener is
//! accepted, and one for each worker, so that the kernel spreads connections without a lock.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::model::Listener;

/// Connections that may wait to be accepted, per socket.
const BACKLOG: i32 = 1024;
/// The same, as they are counted; the kernel lets in one more.
const BACKLOG_CONNECTIONS: usize = BACKLOG as usize + 1;

/// The sockets of one listener at one address.
#[derive(Debug)]
pub struct BoundListener {
    /// Where they really listen: a port 0 has become a number.
    pub address: SocketAddr,
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
        Ok(Self { address: bound, sockets })
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

    /// Stops listening on the socket of this worker, whoever else holds a handle on it, and says who was waiting to be
    /// accepted: the kernel would reset them.
    pub fn close(&self, worker: usize) -> Vec<TcpStream> {
        let Some(socket) = self.sockets.get(worker) else { return Vec::new() };
        let mut waiting = Vec::new();
        while waiting.len() < BACKLOG_CONNECTIONS
            && let Ok((stream, _)) = socket.accept()
        {
            waiting.push(stream);
        }
        // Closing the handle is not enough: the others share the socket, and are closed when their threads come to it.
        if let Err(error) = SockRef::from(socket).shutdown(Shutdown::Read) {
            tracing::error!(address = %self.address, %error, "the socket goes on listening");
        }
        waiting
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

/// Looks whether anybody listens there already. With `SO_REUSEPORT` the kernel shares connections among the processes of a
/// user: those that mean it, and a proxy that was left behind.
fn probe(address: SocketAddr, dual_stack: bool) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!dual_stack)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

/// Where a listener listens: what its sockets are kept by. A listener that moves has those of both places until its new
/// version is published.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    listener: Arc<str>,
    address: SocketAddr,
    dual_stack: bool,
}

impl Place {
    fn of(listener: &Listener) -> Self {
        Self {
            listener: Arc::clone(&listener.name),
            address: listener.address,
            dual_stack: listener.dual_stack,
        }
    }
}

/// The sockets of all listeners.
#[derive(Debug, Default)]
pub struct Sockets {
    bound: HashMap<Place, Arc<BoundListener>>,
    workers: usize,
    closed: bool,
    started: bool,
}

impl Sockets {
    /// No sockets, for so many workers.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self { bound: HashMap::new(), workers, closed: false, started: false }
    }

    /// Sees to it that there are sockets for a listener: those that it had at this address, or new ones. Nobody uses
    /// new ones before the listener is published, and [`Sockets::keep`] takes them away again if it never is. `others`
    /// are the listeners that there will be besides it.
    ///
    /// # Errors
    /// Why the address cannot be listened on.
    pub fn bind<'a>(
        &mut self,
        listener: &Listener,
        mut others: impl Iterator<Item = &'a Listener>,
    ) -> Result<(), String> {
        // With SO_REUSEPORT the kernel would share the port between two of our own listeners.
        let same = |other: &&Listener| {
            other.name != listener.name && other.address == listener.address && listener.address.port() != 0
        };
        if let Some(other) = others.find(same) {
            return Err(format!("address: listener \"{}\" has the same", other.name));
        }
        let place = Place::of(listener);
        let is_ours = |bound: &Arc<BoundListener>| bound.address.port() == listener.address.port();
        let is_shared = !self.started
            && !self.bound.values().any(is_ours)
            && probe(listener.address, listener.dual_stack).is_err();
        if !self.closed && !self.bound.contains_key(&place) {
            let bound = BoundListener::bind(listener.address, listener.dual_stack, self.workers)
                .map_err(|error| format!("address: cannot listen on {}: {error}", listener.address))?;
            self.bound.insert(place, Arc::new(bound));
            if is_shared {
                let (name, address) = (&listener.name, listener.address);
                tracing::warn!(listener = %name, %address, "another process listens there too, and gets a part of the connections");
            }
        }
        Ok(())
    }

    /// From now on others who share an address are not looked for: they may be sockets of ours that are being closed.
    pub const fn started(&mut self) {
        self.started = true;
    }

    /// Forgets the sockets of all but these listeners; they close when no worker uses them any more.
    pub fn keep<'a>(&mut self, listeners: impl Iterator<Item = &'a Arc<Listener>>) {
        let kept: HashSet<Place> = listeners.map(|listener| Place::of(listener)).collect();
        self.bound.retain(|place, _| kept.contains(place));
    }

    /// There are none from now on, whatever listener comes.
    pub fn close(&mut self) {
        self.closed = true;
        self.bound.clear();
    }

    /// The sockets of these listeners by name, to be published.
    pub fn of<'a>(
        &self,
        listeners: impl Iterator<Item = &'a Arc<Listener>>,
    ) -> HashMap<Arc<str>, Arc<BoundListener>> {
        listeners
            .filter_map(|listener| {
                let bound = self.bound.get(&Place::of(listener))?;
                Some((Arc::clone(&listener.name), Arc::clone(bound)))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn who_waits_to_be_accepted_is_not_reset_and_nobody_comes_after() {
        let bound = BoundListener::bind("127.0.0.1:0".parse().unwrap(), false, 1).unwrap();
        let other_handle = bound.of_worker(0).unwrap();
        let knocked: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect(bound.address).unwrap()).collect();
        let waiting = bound.close(0);
        assert_eq!(waiting.len(), knocked.len());
        let refused = TcpStream::connect(bound.address).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "although there is a handle");
        drop(other_handle);
        for mut stream in waiting {
            stream.write_all(b"x").unwrap();
        }
        for mut stream in knocked {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
        }
    }
}
