//! Route matching: the index finds what trying every route in order finds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrider_proxy::model::route_index::{PathKey, RouteIndex};

fuzz_target!(|data: (Vec<(u8, String)>, String)| {
    let (keys, path) = data;
    let keys: Vec<_> = keys.iter().take(64).collect();
    let index = RouteIndex::new(keys.iter().map(|(kind, text)| match kind % 3 {
        0 => PathKey::Exact(text),
        1 => PathKey::Prefix(text),
        _ => PathKey::Any,
    }));
    let accept = |position: u32| {
        let (kind, text) = keys[position as usize];
        let matches = match kind % 3 {
            0 => *text == path,
            1 => path.starts_with(text.as_str()),
            _ => true,
        };
        kind & 0x40 == 0 && matches
    };
    let scanned = (0..keys.len() as u32).find(|position| accept(*position));
    assert_eq!(index.first(&path, accept), scanned);
});
