//! The listeners of one worker: accepting, and following changes without losing a connection.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use super::sockets::BoundListener;
use super::workers::Published;
use crate::connection;
use crate::drain::Drain;
use crate::limit::pressure::Stage;
use crate::model::Listener;
use crate::observe::Reason;
use crate::observe::metrics::Labels;
use crate::observe::series::{ListenerSeries, PANICS};
use crate::worker::Worker;

/// How long accepting pauses when the process is out of file descriptors.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// How long connections that are cut at the end of a drain have to say so in logs and metrics.
pub const LAST_WORDS: Duration = Duration::from_millis(500);

/// All listeners of one worker.
pub struct Listeners {
    worker: Rc<Worker>,
    index: usize,
    open: HashMap<Arc<str>, Open>,
    entrance: Rc<Entrance>,
    drain_timeout: Duration,
    /// Connections of listeners that changed or are gone.
    draining: Vec<Rc<Generation>>,
}

/// A listener that is accepting.
struct Open {
    bound: Arc<BoundListener>,
    current: Rc<RefCell<Rc<Generation>>>,
    accepting: AbortHandle,
}

/// The connections that came in under one version of a listener.
struct Generation {
    listener: Arc<Listener>,
    drain: Drain,
    tasks: RefCell<JoinSet<()>>,
    series: ListenerSeries,
}

impl Generation {
    fn new(listener: &Arc<Listener>, worker: &Worker) -> Rc<Self> {
        Rc::new(Self {
            listener: Arc::clone(listener),
            drain: Drain::default(),
            tasks: RefCell::default(),
            series: ListenerSeries::new(&worker.metrics, &listener.name),
        })
    }

    /// Takes note of connections that ended; says how many are left.
    fn reap(&self, worker: &Worker) -> usize {
        let mut tasks = self.tasks.borrow_mut();
        while let Some(done) = tasks.try_join_next() {
            if done.is_err_and(|error| error.is_panic()) {
                worker.metrics.counter(PANICS, &Labels::none()).add(1);
            }
        }
        tasks.len()
    }
}

impl Listeners {
    /// No listener yet.
    #[must_use]
    pub fn new(worker: Rc<Worker>, index: usize, max_connections: usize, drain_timeout: Duration) -> Self {
        let entrance =
            Rc::new(Entrance { worker: Rc::clone(&worker), connections: Rc::default(), max_connections });
        Self { worker, index, open: HashMap::new(), entrance, drain_timeout, draining: Vec::new() }
    }

    /// Follows a publication.
    pub fn update(&mut self, published: &Published) {
        let snapshot = &published.snapshot;
        let gone: Vec<Arc<str>> =
            self.open.keys().filter(|name| !snapshot.listeners.contains_key(*name)).cloned().collect();
        for name in gone {
            if let Some(open) = self.open.remove(&name) {
                self.close(&open);
            }
        }
        for (name, listener) in &snapshot.listeners {
            match published.sockets.get(name) {
                Some(bound) => self.follow(listener, bound),
                // The proxy is ending, and the connections that are left still follow what is said of them.
                None => self.hold_to(listener),
            }
        }
    }

    fn follow(&mut self, listener: &Arc<Listener>, bound: &Arc<BoundListener>) {
        if let Some(open) = self.open.get(&listener.name)
            && Arc::ptr_eq(&open.bound, bound)
        {
            if Arc::ptr_eq(&open.current.borrow().listener, listener) {
                return;
            }
            let old = open.current.replace(Generation::new(listener, &self.worker));
            self.drain(old);
            self.hold_to(listener);
            return;
        }
        let socket = bound.of_worker(self.index).and_then(TcpListener::from_std);
        let socket = match socket {
            Ok(socket) => socket,
            Err(error) => {
                tracing::error!(listener = %listener.name, %error, "worker cannot use the listener's socket");
                return;
            }
        };
        let current = Rc::new(RefCell::new(Generation::new(listener, &self.worker)));
        let accepting =
            tokio::task::spawn_local(accept(socket, Rc::clone(&current), Rc::clone(&self.entrance)));
        let open = Open { bound: Arc::clone(bound), current, accepting: accepting.abort_handle() };
        if let Some(old) = self.open.insert(Arc::clone(&listener.name), open) {
            self.close(&old);
            self.hold_to(listener);
        }
    }

    /// Stops accepting at an address. Who was waiting to be accepted there is served as the last.
    fn close(&mut self, open: &Open) {
        open.accepting.abort();
        let generation = Rc::clone(&open.current.borrow());
        for stream in open.bound.close(self.index) {
            let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
            match stream {
                Ok(stream) => self.entrance.let_in(stream, &generation),
                Err(error) => tracing::warn!(%error, "a connection is lost"),
            }
        }
        self.drain(generation);
    }

    /// Holds connections that an earlier version of a listener let in to what it says now.
    fn hold_to(&self, listener: &Listener) {
        let standings = self.worker.standings.alive();
        let of_listener = standings.iter().filter(|standing| standing.facts.listener == listener.name);
        let ended = of_listener.filter(|standing| self.worker.hold(standing, listener)).count();
        self.worker.count_cut(Reason::PolicyChanged, ended);
        self.worker.review_is_due();
    }

    /// Lets the connections of a generation end, and ends them when they take too long.
    fn drain(&mut self, generation: Rc<Generation>) {
        generation.drain.begin();
        let (late, limit, worker) = (Rc::clone(&generation), self.drain_timeout, Rc::clone(&self.worker));
        tokio::task::spawn_local(async move {
            sleep(limit).await;
            let standings = worker.standings.alive();
            let late_ones = standings.iter().filter(|one| Arc::ptr_eq(&one.facts.came_by, &late.listener));
            worker.count_cut(Reason::DrainTimeout, late_ones.filter(|one| one.overdue()).count());
            drop(standings);
            sleep(LAST_WORDS).await;
            late.tasks.borrow_mut().abort_all();
        });
        self.draining.push(generation);
    }

    /// Takes note of connections that ended; says how many are left.
    pub fn reap(&mut self) -> usize {
        self.draining.retain(|generation| generation.reap(&self.worker) > 0);
        let open: usize = self.open.values().map(|open| open.current.borrow().reap(&self.worker)).sum();
        open + self.draining.iter().map(|generation| generation.tasks.borrow().len()).sum::<usize>()
    }

    /// Stops accepting and lets all connections end.
    pub fn close_all(&mut self) {
        let all: Vec<Open> = self.open.drain().map(|(_, open)| open).collect();
        for open in all {
            self.close(&open);
        }
    }
}

async fn accept(socket: TcpListener, current: Rc<RefCell<Rc<Generation>>>, entrance: Rc<Entrance>) {
    loop {
        while entrance.worker.pressure.is_full(Stage::StopAccepting) {
            sleep(EXHAUSTED_PAUSE).await;
        }
        match socket.accept().await {
            Ok((stream, _)) => {
                let generation = Rc::clone(&current.borrow());
                entrance.let_in(stream, &generation);
            }
            Err(error) => {
                tracing::warn!(%error, "accepting failed");
                sleep(EXHAUSTED_PAUSE).await;
            }
        }
    }
}

/// Where connections come in, from whatever listener.
struct Entrance {
    worker: Rc<Worker>,
    connections: Rc<Cell<usize>>,
    max_connections: usize,
}

impl Entrance {
    /// Serves a connection, or closes it where there is no place for it.
    fn let_in(&self, stream: TcpStream, generation: &Rc<Generation>) {
        let worker = &self.worker;
        if self.connections.get() >= self.max_connections || worker.pressure.rejects(|| worker.draw()) {
            // Closing it at once tells the client more than letting it wait.
            metrics::counter!("outrider_downstream_connections_refused_total").increment(1);
            return;
        }
        generation.reap(worker);
        generation.series.opened.add(1);
        let active = generation.series.active.hold();
        let place = (ConnectionPlace::new(Rc::clone(&self.connections)), worker.pressure.connect());
        let (listener, drain) = (Arc::clone(&generation.listener), generation.drain.clone());
        let worker = Rc::clone(worker);
        generation.tasks.borrow_mut().spawn_local(async move {
            let _counted = (active, place);
            connection::serve(stream, listener, worker, drain).await;
        });
    }
}

/// One of the worker's connections.
struct ConnectionPlace(Rc<Cell<usize>>);

impl ConnectionPlace {
    fn new(connections: Rc<Cell<usize>>) -> Self {
        connections.set(connections.get() + 1);
        Self(connections)
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}
