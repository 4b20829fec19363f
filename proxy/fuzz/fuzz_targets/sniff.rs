//! First bytes: an answer never changes when more bytes come.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrider_proxy::detect::client_hello::{Hello, read};
use outrider_proxy::detect::{Sniff, sniff};

fuzz_target!(|data: &[u8]| {
    let Some((cut, input)) = data.split_first() else {
        return;
    };
    let early = input.get(..usize::from(*cut)).unwrap_or(input);
    let (first, then) = (sniff(early), sniff(input));
    assert!(first == Sniff::NeedMore || first == then);
    let (first, then) = (read(early), read(input));
    assert!(first == Hello::NeedMore || first == then);
    if let Hello::Done(hello) = then {
        assert_eq!(sniff(input), Sniff::Tls);
        assert!(hello.server_name.is_none_or(|name| !name.is_empty() && !name.contains('/')));
    }
});
