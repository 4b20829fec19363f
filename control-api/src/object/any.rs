//! An object of any kind that is understood.

use std::sync::Arc;

use outrider_proto::Fault;
use serde_json::{Map, Value};

use super::authorization::AuthorizationPolicy;
use super::core::{EndpointSlice, Namespace, Pod, Service};
use super::egress::EgressPolicy;
use super::fault_injection::FaultInjection;
use super::gateway::{GrpcRoute, TcpRoute};
use super::http_route::HttpRoute;
use super::key::{Key, ObjectKind};
use super::revocation::Revocation;
use super::traffic::TrafficPolicy;
use super::workload::Workload;
use super::{Metadata, Object, Place};

macro_rules! any_object {
    ($($kind:ident: $type:ty),* $(,)?) => {
        /// An object of any kind.
        #[derive(Clone, Debug)]
        #[expect(missing_docs, reason = "the kinds")]
        pub enum AnyObject {
            $($kind(Arc<Object<$type>>),)*
        }

        impl AnyObject {
            /// Its kind, namespace and name.
            #[must_use]
            pub fn key(&self) -> &Key {
                match self { $(Self::$kind(object) => &object.key,)* }
            }

            /// Its name, labels and so on.
            #[must_use]
            pub fn meta(&self) -> &Metadata {
                match self { $(Self::$kind(object) => &object.meta,)* }
            }

            /// Where it stands.
            #[must_use]
            pub fn place(&self) -> &Place {
                match self { $(Self::$kind(object) => &object.place,)* }
            }

            /// Of everything that may matter for compiling.
            #[must_use]
            pub fn digest(&self) -> &[u8; 32] {
                match self { $(Self::$kind(object) => &object.digest,)* }
            }

            fn of_kind(kind: ObjectKind, fields: Map<String, Value>, place: &Place) -> Result<Self, Vec<Fault>> {
                match kind {
                    $(ObjectKind::$kind => Ok(Self::$kind(Arc::new(Object::from_fields(fields, place)?))),)*
                }
            }
        }
    };
}

any_object! {
    Namespace: Namespace,
    Service: Service,
    EndpointSlice: EndpointSlice,
    Pod: Pod,
    HttpRoute: HttpRoute,
    GrpcRoute: GrpcRoute,
    TcpRoute: TcpRoute,
    Workload: Workload,
    TrafficPolicy: TrafficPolicy,
    AuthorizationPolicy: AuthorizationPolicy,
    EgressPolicy: EgressPolicy,
    FaultInjection: FaultInjection,
    Revocation: Revocation,
}

impl AnyObject {
    /// Reads an object.
    ///
    /// # Errors
    /// All faults that could be found, with the paths of the fields.
    pub fn from_value(value: Value, place: &Place) -> Result<Self, Vec<Fault>> {
        let Value::Object(mut fields) = value else {
            return Err(vec![Fault::new("", "an object is a mapping with apiVersion, kind and metadata")]);
        };
        drop_nulls(&mut fields);
        Self::of_kind(kind(&fields)?, fields, place)
    }
}

/// What an object that could not be read is called, as far as it can be seen.
#[must_use]
pub fn key_of(value: &Value) -> Option<Key> {
    let kind = kind(value.as_object()?).ok()?;
    let meta = value.get("metadata")?;
    let name = meta.get("name")?.as_str()?;
    Some(key(kind, meta.get("namespace").and_then(Value::as_str), name))
}

/// The key of an object of a kind, with the namespace as it is written.
#[must_use]
pub fn key(kind: ObjectKind, namespace: Option<&str>, name: &str) -> Key {
    let namespace = match namespace {
        _ if !kind.is_namespaced() => "",
        Some(namespace) if !namespace.is_empty() => namespace,
        Some(_) | None => super::meta::DEFAULT_NAMESPACE,
    };
    Key::new(kind, namespace, name)
}

fn kind(fields: &Map<String, Value>) -> Result<ObjectKind, Vec<Fault>> {
    let text = |name: &str| match fields.get(name) {
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(_) => Err(vec![Fault::new(name, "must be a text")]),
        None => Err(vec![Fault::new(name, "missing")]),
    };
    let (version, name) = (text("apiVersion")?, text("kind")?);
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let named: Vec<ObjectKind> = ObjectKind::ALL.into_iter().filter(|kind| kind.as_str() == name).collect();
    let Some(kind) = named.iter().find(|kind| kind.group() == group) else {
        let known = ObjectKind::ALL.map(ObjectKind::as_str).join(", ");
        return Err(vec![match named.first() {
            Some(kind) => Fault::new("apiVersion", format!("{name} is of the group \"{}\"", kind.group())),
            None => Fault::new("kind", format!("not known here; the kinds are {known}")),
        }]);
    };
    if !kind.versions().contains(&version) {
        let known = kind.versions().join(" or ");
        return Err(vec![Fault::new("apiVersion", format!("the version of {name} must be {known}"))]);
    }
    Ok(*kind)
}

/// A field that is null is a field that is not there, as for an API server.
fn drop_nulls(fields: &mut Map<String, Value>) {
    fields.retain(|_, value| !value.is_null());
    for value in fields.values_mut() {
        drop_nulls_in(value);
    }
}

fn drop_nulls_in(value: &mut Value) {
    match value {
        Value::Object(fields) => drop_nulls(fields),
        Value::Array(items) => items.iter_mut().for_each(drop_nulls_in),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
