//! What the build script made of the `.proto` files, in modules that mirror the packages.
#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    reason = "generated code; the comments are in the .proto files"
)]

include!(concat!(env!("OUT_DIR"), "/packages.rs"));
