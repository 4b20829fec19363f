use proptest::prelude::*;

use super::frame::{Flags, Frame, Kind, MAX_FRAME_BYTES};
use super::*;

fn client(body_bytes: usize) -> Client<u32> {
    Client::new(Request::new((false, "h", "/"), &[], body_bytes).unwrap())
}

fn frame(kind: Kind, flags: Flags, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::write(&mut bytes, kind, flags, stream, payload);
    bytes
}

fn settings(pairs: &[(u16, u32)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::settings(&mut bytes, pairs);
    bytes
}

fn receive(client: &mut Client<u32>, bytes: &[u8]) -> Result<Vec<(u32, End)>, Malformed> {
    let mut ends = Vec::new();
    client.receive(bytes, |tag, end| ends.push((tag, end))).map(|used| {
        assert_eq!(used, bytes.len());
        ends
    })
}

/// The bytes of bodies that were written, by stream, and whether they are whole.
fn bodies(out: &[u8]) -> Vec<(u32, usize, bool)> {
    let (mut rest, mut found) = (out, Vec::<(u32, usize, bool)>::new());
    while let Some((frame, after)) = Frame::split(rest).unwrap() {
        rest = after;
        if frame.kind == Kind::Data {
            assert!(frame.payload.len() <= MAX_FRAME_BYTES);
            let last = frame.flags.has(Flags::END_STREAM);
            match found.iter_mut().find(|(stream, ..)| *stream == frame.stream) {
                Some((_, bytes, whole)) => (*bytes, *whole) = (*bytes + frame.payload.len(), last),
                None => found.push((frame.stream, frame.payload.len(), last)),
            }
        }
    }
    found
}

#[test]
fn answers_end_in_their_own_order() {
    let mut client = client(0);
    assert_eq!(client.allowed(), None);
    receive(&mut client, &settings(&[(MAX_CONCURRENT_STREAMS, 100)])).unwrap();
    assert_eq!(client.allowed(), Some(100));
    for tag in 10..14 {
        client.begin(tag);
    }
    let bytes = [
        frame(Kind::Headers, Flags::END_HEADERS, 5, b"\x48\x03103"),
        frame(Kind::Headers, Flags::END_HEADERS, 5, &[0x88]),
        frame(Kind::Data, Flags::NONE, 5, b"abc"),
        // An answer without a body, its fields in two frames.
        frame(Kind::Headers, Flags::END_STREAM, 1, &[0x8d]),
        frame(Kind::Continuation, Flags::END_HEADERS, 1, &[]),
        frame(Kind::Reset, Flags::NONE, 7, &7_u32.to_be_bytes()),
        frame(Kind::Data, Flags::END_STREAM, 5, b"de"),
        // Of a stream that is over, and of an unknown kind.
        frame(Kind::Data, Flags::END_STREAM, 7, b"de"),
        frame(Kind::Other(0x42), Flags::NONE, 0, b"?"),
    ];
    let ends = receive(&mut client, &bytes.concat()).unwrap();
    let answer = |status, bytes| End::Answer { status, bytes };
    assert_eq!(ends, [(10, answer(404, 0)), (13, End::Reset(7)), (12, answer(200, 5))]);
    assert_eq!(client.abandon().collect::<Vec<_>>(), [11]);
}

#[test]
fn requests_that_the_server_did_not_look_at_come_back() {
    let mut client = client(0);
    (0..3).for_each(|tag| client.begin(tag));
    let bye = [3_u32.to_be_bytes(), 0_u32.to_be_bytes()].concat();
    let ends = receive(&mut client, &frame(Kind::GoAway, Flags::NONE, 0, &bye)).unwrap();
    assert_eq!(ends, [(2, End::Refused)]);
    assert!(client.is_closing() && client.under_way() == 2);
}

#[test]
fn bodies_wait_for_both_windows() {
    let mut client = client(70_000);
    receive(&mut client, &settings(&[(INITIAL_WINDOW_SIZE, 40_000)])).unwrap();
    client.out.clear();
    (0..2).for_each(|tag| client.begin(tag));
    assert_eq!(bodies(&client.out), [(1, 40_000, false), (3, 25_535, false)]);
    let update = |stream, more: u32| frame(Kind::WindowUpdate, Flags::NONE, stream, &more.to_be_bytes());
    client.out.clear();
    receive(&mut client, &update(1, 30_000)).unwrap();
    assert_eq!(bodies(&client.out), [], "the connection's window is used up");
    receive(&mut client, &update(0, 100_000)).unwrap();
    assert_eq!(bodies(&client.out), [(1, 30_000, true), (3, 14_465, false)]);
    client.out.clear();
    receive(&mut client, &settings(&[(INITIAL_WINDOW_SIZE, 70_000)])).unwrap();
    assert_eq!(bodies(&client.out), [(3, 30_000, true)]);
}

#[test]
fn an_answer_before_the_body_was_sent_cancels_it() {
    let mut client = client(100_000);
    client.begin(1);
    client.out.clear();
    receive(&mut client, &frame(Kind::Headers, Flags::END_STREAM | Flags::END_HEADERS, 1, &[0x88])).unwrap();
    assert_eq!(client.out, frame(Kind::Reset, Flags::NONE, 1, &CANCEL.to_be_bytes()));
    client.out.clear();
    receive(&mut client, &frame(Kind::WindowUpdate, Flags::NONE, 0, &9999_u32.to_be_bytes())).unwrap();
    assert!(client.out.is_empty());
}

#[test]
fn what_no_server_may_send() {
    let cases = [
        (frame(Kind::Continuation, Flags::NONE, 1, &[]), "a continuation of nothing"),
        (frame(Kind::PushPromise, Flags::NONE, 1, &[]), "a push that was not allowed"),
        (frame(Kind::Data, Flags::PADDED, 1, &[5, 0]), "a frame that is shorter than its padding"),
        (frame(Kind::Reset, Flags::NONE, 1, &[0]), "a frame that is too short"),
        (frame(Kind::Settings, Flags::NONE, 0, &[0]), "half a setting"),
        (vec![1, 0, 0, 0, 0, 0, 0, 0, 1], "a frame that is too long"),
        (frame(Kind::Data, Flags::END_STREAM, 1, b"a"), "an answer without a status"),
    ];
    for (bytes, why) in cases {
        let mut client = client(0);
        client.begin(0);
        assert_eq!(receive(&mut client, &bytes), Err(Malformed(why)));
    }
}

proptest! {
    /// However the frames are cut, the same requests end alike.
    #[test]
    fn cuts_do_not_matter(sizes in prop::collection::vec(0_usize..3000, 1..6), step in 1_usize..5000) {
        let mut client = client(0);
        let mut bytes = settings(&[]);
        for (tag, size) in (0_u32..).zip(&sizes) {
            client.begin(tag);
            let stream = tag * 2 + 1;
            bytes.extend(frame(Kind::Headers, Flags::END_HEADERS, stream, &[0x88, 0x5c, 0x01, b'9']));
            bytes.extend(frame(Kind::Data, Flags::END_STREAM, stream, &vec![0; *size]));
        }
        let (mut held, mut ends) = (Vec::new(), Vec::new());
        for piece in bytes.chunks(step) {
            held.extend_from_slice(piece);
            let used = client.receive(&held, |tag, end| ends.push((tag, end))).unwrap();
            held.drain(..used);
        }
        let expected: Vec<_> = (0..).zip(&sizes)
            .map(|(tag, size)| (tag, End::Answer { status: 200, bytes: *size as u64 })).collect();
        prop_assert_eq!(ends, expected);
        prop_assert!(held.is_empty());
    }

    /// Nothing that comes makes it panic.
    #[test]
    fn noise(mut bytes in prop::collection::vec(any::<u8>(), 9..200), kind in 0_u8..10) {
        let mut client = client(10);
        client.begin(0);
        let _ = client.receive(&bytes, |_, _| ());
        // Whole frames of known kinds get further.
        let length = bytes.len() - 9;
        bytes[..4].copy_from_slice(&[0, 0, u8::try_from(length).unwrap(), kind]);
        bytes[5..9].copy_from_slice(&[0, 0, 0, 1]);
        let _ = client.receive(&bytes, |_, _| ());
    }
}
