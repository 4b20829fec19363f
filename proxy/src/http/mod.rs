//! HTTP messages and their codecs, between the connection and the exchange.
//!
//! [`headers`] and [`message`] are the one form in which the rest of the proxy sees a message, whatever
//! version it came in; [`h1`] is the HTTP/1 codec, and `h2` the bridge to the `h2` crate.

pub mod headers;
pub mod message;
