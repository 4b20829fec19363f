//! Faults on purpose: what is done to a request or a connection so that those who depend on it show whether they
//! can bear it.
//!
//! [`filter`] is Envoy's HTTP fault filter, which stands in a filter chain; [`leased`] are the faults that come as
//! resources of their own, each for as long as its [`lease`] is kept up, within what [`guard`] allows. What is drawn and decided here is pure;
//! `exchange` and `tcp` carry it out. A request on a chain without faults does not come by here.

mod chance;
pub mod distribution;
pub mod filter;
pub mod guard;
pub mod injected;
pub mod lease;
pub mod leased;
pub mod set;
pub mod shape;

pub use chance::Chance;
pub use filter::{Answer, Filter, HttpFaults};
pub use guard::{Guard, Tally};
pub use injected::{Injected, Slot};
pub use leased::{Action, Leased, Place};
pub use set::{FaultSet, Pause, Plan, Stage};
pub use shape::{ShapedSource, Shaper};
