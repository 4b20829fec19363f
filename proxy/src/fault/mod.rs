//! Faults on purpose: what is done to a request or a connection so that those who depend on it show whether they
//! can bear it.
//!
//! [`filter`] is Envoy's HTTP fault filter, which stands in a filter chain. What is drawn and decided here is pure;
//! `exchange` and `tcp` carry it out. A request on a chain without faults does not come by here.

mod chance;
pub mod filter;
pub mod injected;
pub mod shape;

pub use chance::Chance;
pub use filter::{Answer, Filter, HttpFaults};
pub use injected::{Injected, Slot};
pub use shape::{ShapedSource, Shaper};
