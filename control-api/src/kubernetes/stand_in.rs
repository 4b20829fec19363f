//! For tests: a small API server over real HTTP, which can be made to forget, to refuse, and to go away. It knows lists
//! in pages, watches from a version, bookmarks, versions that must match on writes, and token reviews.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

type Body = BoxBody<Bytes, std::io::Error>;

/// What it knows.
#[derive(Default)]
pub(crate) struct Store {
    version: u64,
    /// By path (`/api/v1/namespaces/a/pods/b`).
    objects: BTreeMap<String, Value>,
    /// Changes: version, path, event.
    log: Vec<(u64, String, Value)>,
    /// Changes up to here are forgotten.
    oldest: u64,
    /// Groups and versions, with the plurals that they have.
    pub(crate) served: BTreeMap<String, BTreeSet<String>>,
    /// Plurals that are refused.
    pub(crate) forbidden: BTreeSet<String>,
    /// Answers to token reviews by token.
    pub(crate) tokens: BTreeMap<String, Value>,
    /// All requests, with their queries.
    pub(crate) requests: Vec<String>,
}

/// The server.
pub(crate) struct StandIn {
    pub(crate) address: SocketAddr,
    store: Arc<Mutex<Store>>,
    changes: watch::Sender<u64>,
    running: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

impl StandIn {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server =
            Self { address, store: Arc::default(), changes: watch::channel(0).0, running: Mutex::new(None) };
        server.serve(listener);
        server
    }

    fn serve(&self, listener: TcpListener) {
        let (store, changes) = (Arc::clone(&self.store), self.changes.clone());
        let task = tokio::spawn(async move {
            // Dropped with the task: every connection breaks.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (store, changes) = (Arc::clone(&store), changes.clone());
                connections.spawn(async move {
                    let service =
                        service_fn(move |request| answer(request, Arc::clone(&store), changes.clone()));
                    let served = hyper::server::conn::http1::Builder::new();
                    drop(served.serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        *self.running.lock().unwrap() = Some(task);
    }

    /// Goes away, and breaks all connections.
    pub(crate) async fn stop(&self) {
        let task = self.running.lock().unwrap().take().unwrap();
        task.abort();
        drop(task.await);
    }

    /// Comes back with what it knew.
    pub(crate) async fn resume(&self) {
        self.serve(TcpListener::bind(self.address).await.unwrap());
    }

    pub(crate) fn client(&self) -> kube::Client {
        let uri: http::Uri = format!("http://{}", self.address).parse().unwrap();
        let mut config = kube::Config::new(uri);
        config.default_retry = false;
        kube::Client::try_from(config).unwrap()
    }

    pub(crate) fn store<T>(&self, look: impl FnOnce(&mut Store) -> T) -> T {
        look(&mut self.store.lock().unwrap())
    }

    pub(crate) fn object(&self, path: &str) -> Option<Value> {
        self.store(|store| store.objects.get(path).cloned())
    }

    /// Makes or changes an object.
    pub(crate) fn put(&self, path: &str, object: Value) {
        self.store(|store| store.put(path, object));
        self.changes.send_modify(|number| *number += 1);
    }

    pub(crate) fn delete(&self, path: &str) {
        self.store(|store| {
            let mut object = store.objects.remove(path).unwrap();
            store.record(path, "DELETED", &mut object);
        });
        self.changes.send_modify(|number| *number += 1);
    }

    /// Sends all watches of a kind a bookmark, and ends them as a server does after a while; the bookmark's version.
    pub(crate) fn bookmark(&self, collection: &str) -> u64 {
        let version = self.store(|store| {
            let mut mark = json!({"apiVersion": "v1", "kind": "Any", "metadata": {}});
            let plural = collection.rsplit('/').next().unwrap_or_default();
            let path = format!("{}{plural}/any", collection.strip_suffix(plural).unwrap_or_default());
            store.record(&path, "BOOKMARK", &mut mark);
            store.version
        });
        self.changes.send_modify(|number| *number += 1);
        version
    }

    /// Forgets all changes up to now: who asks for what came after an older version is told so (410).
    pub(crate) fn compact(&self) {
        self.store(|store| {
            store.oldest = store.version;
            store.log.clear();
        });
    }

    /// How many requests had all of this in them.
    pub(crate) fn requests(&self, parts: &[&str]) -> usize {
        let asked = |one: &&String| parts.iter().all(|part| one.contains(part));
        self.store(|store| store.requests.iter().filter(asked).count())
    }
}

impl Store {
    fn put(&mut self, path: &str, mut object: Value) {
        let event = if self.objects.contains_key(path) { "MODIFIED" } else { "ADDED" };
        self.record(path, event, &mut object);
        self.objects.insert(path.to_owned(), object);
    }

    fn record(&mut self, path: &str, event: &str, object: &mut Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.log.push((self.version, path.to_owned(), json!({"type": event, "object": object})));
    }
}

async fn answer(
    request: Request<Incoming>,
    store: Arc<Mutex<Store>>,
    changes: watch::Sender<u64>,
) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let query: BTreeMap<String, String> = head
        .uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())))
        .collect();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    store.lock().unwrap().requests.push(format!("{} {} ", head.method, head.uri));
    let shown = store.lock().unwrap().shows(&path);
    if shown && query.get("watch").is_some_and(|watch| watch == "true") {
        return Ok(watch_events(&path, &query, store, &changes));
    }
    let (code, answer) = store.lock().unwrap().reply(&head.method, &path, &query, body);
    if head.method != Method::GET {
        changes.send_modify(|number| *number += 1);
    }
    let body = Full::new(Bytes::from(answer.to_string())).map_err(|never| match never {}).boxed();
    Ok(Response::builder().status(code).body(body).unwrap())
}

impl Store {
    fn reply(
        &mut self,
        method: &Method,
        path: &str,
        query: &BTreeMap<String, String>,
        mut body: Value,
    ) -> (u16, Value) {
        let last = path.rsplit('/').next().unwrap_or_default();
        if self.forbidden.contains(last) {
            return refusal(403, "you may not");
        }
        if let Some(plurals) = path.strip_prefix("/apis/").and_then(|name| self.served.get(name)) {
            let resources: Vec<Value> = plurals.iter().map(|one| json!({"name": one, "singularName": "", "namespaced": true, "kind": "X", "verbs": ["list"]})).collect();
            return (200, json!({"groupVersion": path, "resources": resources}));
        }
        if last == "tokenreviews" {
            let token = body["spec"]["token"].as_str().unwrap_or_default();
            body["status"] =
                self.tokens.get(token).cloned().unwrap_or_else(|| json!({"authenticated": false}));
            return (201, body);
        }
        let object = path.strip_suffix("/status").unwrap_or(path);
        if let Some(before) = self.objects.get(object).cloned() {
            if *method == Method::GET {
                return (200, before);
            }
            let version = body.pointer("/metadata/resourceVersion").cloned().unwrap_or_default();
            let anyhow = *method == Method::PATCH && version.is_null();
            if *method == Method::POST || (!anyhow && version != before["metadata"]["resourceVersion"]) {
                return refusal(409, "it has changed");
            }
            if *method == Method::PATCH {
                body = patched(before, &body);
            }
            self.put(object, body.clone());
            return (200, self.objects.get(object).cloned().unwrap_or(body));
        }
        if *method == Method::POST {
            let name = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let made = format!("{path}/{name}");
            if self.objects.contains_key(&made) {
                return refusal(409, "it is there");
            }
            self.put(&made, body.clone());
            return (201, body);
        }
        if !self.lists(path) {
            return refusal(404, "not found");
        }
        self.list(path, query)
    }

    /// Whether this is the path of all objects of a kind that is served and not refused.
    fn shows(&self, path: &str) -> bool {
        let plural = path.rsplit('/').next().unwrap_or_default();
        self.lists(path) && !self.forbidden.contains(plural)
    }

    /// Whether this is the path of all objects of a kind that is served.
    fn lists(&self, path: &str) -> bool {
        let Some((group, plural)) = path.rsplit_once('/') else { return false };
        let built_in = ["/api/v1/namespaces", "/api/v1/services", "/api/v1/pods"].contains(&path)
            || path == "/apis/discovery.k8s.io/v1/endpointslices";
        let served = group.strip_prefix("/apis/").and_then(|group| self.served.get(group));
        built_in || served.is_some_and(|plurals| plurals.contains(plural))
    }

    fn list(&self, path: &str, query: &BTreeMap<String, String>) -> (u16, Value) {
        let from: usize = query.get("continue").and_then(|token| token.parse().ok()).unwrap_or(0);
        let limit: usize = query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
        let all: Vec<&Value> =
            self.objects.iter().filter(|(object, _)| is_in(object, path)).map(|(_, object)| object).collect();
        let items: Vec<Value> = all
            .iter()
            .skip(from)
            .take(limit)
            .map(|one| {
                let mut item = (*one).clone();
                item.as_object_mut().unwrap().retain(|name, _| name != "kind" && name != "apiVersion");
                item
            })
            .collect();
        let next = (from + items.len() < all.len()).then(|| (from + items.len()).to_string());
        let metadata = json!({"resourceVersion": self.version.to_string(), "continue": next});
        (200, json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items}))
    }
}

/// Whether an object is one of the kind whose path is given: `/api/v1/namespaces/a/pods/b` in `/api/v1/pods`.
fn is_in(object: &str, collection: &str) -> bool {
    let Some((version, plural)) = collection.rsplit_once('/') else { return false };
    // One version may begin with another: `v1`, `v1alpha2`.
    let rest = object.strip_prefix(version).and_then(|rest| rest.strip_prefix('/')).unwrap_or_default();
    let parts: Vec<&str> = rest.split('/').collect();
    match parts.as_slice() {
        ["namespaces", _, kind, _] | [kind, _] => *kind == plural,
        _ => false,
    }
}

fn watch_events(
    path: &str,
    query: &BTreeMap<String, String>,
    store: Arc<Mutex<Store>>,
    changes: &watch::Sender<u64>,
) -> Response<Body> {
    let mut from: u64 = query.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
    let (sender, receiver) = mpsc::channel::<Result<Frame<Bytes>, std::io::Error>>(16);
    let (path, mut changes) = (path.to_owned(), changes.subscribe());
    tokio::spawn(async move {
        loop {
            changes.mark_unchanged();
            let events: Vec<(u64, Value)> = {
                let store = store.lock().unwrap();
                if from < store.oldest {
                    vec![(u64::MAX, json!({"type": "ERROR", "object": refusal(410, "too old").1}))]
                } else {
                    let new = store
                        .log
                        .iter()
                        .filter(|(version, object, _)| *version > from && is_in(object, &path));
                    new.map(|(version, _, event)| (*version, event.clone())).collect()
                }
            };
            for (version, event) in events {
                let line = Bytes::from(format!("{event}\n"));
                let last = version == u64::MAX || event["type"] == "BOOKMARK";
                if sender.send(Ok(Frame::data(line))).await.is_err() || last {
                    return;
                }
                from = version;
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = sender.closed() => return,
            }
        }
    });
    let body = StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(receiver));
    Response::builder().status(200).body(body.boxed()).unwrap()
}

/// A merge patch of the status, which is replaced, and of the data, entry by entry.
fn patched(mut object: Value, patch: &Value) -> Value {
    if !patch["status"].is_null() {
        object["status"] = patch["status"].clone();
    }
    for (name, value) in patch["data"].as_object().into_iter().flatten() {
        if value.is_null() {
            object["data"].as_object_mut().and_then(|data| data.remove(name));
        } else {
            object["data"][name] = value.clone();
        }
    }
    object
}

fn refusal(code: u16, message: &str) -> (u16, Value) {
    // Clients go by the word rather than by the number.
    let reason = match code {
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        410 => "Expired",
        _ => "InternalError",
    };
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": message, "code": code,
    });
    (code, status)
}
