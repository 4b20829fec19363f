//! How many security events of one kind a worker writes, so that a flood fills no disk and hides no event of another
//! kind.

use std::cell::RefCell;

use tokio::time::{Duration, Instant};

/// Events of one kind that a worker writes in one [`WINDOW`]; the next one says how many were left out.
const MAX_EVENTS: u32 = 20;
const WINDOW: Duration = Duration::from_secs(1);

/// Kinds that are told apart. More come only from rules that a configuration names; these share one window.
const MAX_KINDS: usize = 64;

/// What an event is about: its name, and two things that tell its kinds apart.
type Kind<'a> = [&'a str; 3];

/// Lets a number of events of each kind through in each window.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    kinds: RefCell<Vec<([Box<str>; 3], Window)>>,
    rest: RefCell<Window>,
}

impl Throttle {
    /// How many of this kind were left out since the last one, if this one is let through.
    pub(super) fn admit(&self, kind: Kind<'_>, now: Instant) -> Option<u64> {
        let mut kinds = self.kinds.borrow_mut();
        if let Some((_, window)) =
            kinds.iter_mut().find(|(known, _)| known.iter().map(|part| &**part).eq(kind))
        {
            return window.admit(now);
        }
        if kinds.len() >= MAX_KINDS {
            kinds.retain(|(_, window)| !window.is_over(now));
        }
        if kinds.len() >= MAX_KINDS {
            return self.rest.borrow_mut().admit(now);
        }
        let mut window = Window::default();
        let left_out = window.admit(now);
        kinds.push((kind.map(Box::from), window));
        left_out
    }
}

/// What became of events of one kind lately.
#[derive(Debug, Default)]
struct Window {
    began: Option<Instant>,
    admitted: u32,
    left_out: u64,
}

impl Window {
    fn has_passed(&self, now: Instant) -> bool {
        self.began.is_none_or(|began| now.duration_since(began) >= WINDOW)
    }

    /// Whether it can be forgotten.
    fn is_over(&self, now: Instant) -> bool {
        self.left_out == 0 && self.has_passed(now)
    }

    fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.has_passed(now) {
            (self.began, self.admitted) = (Some(now), 0);
        }
        if self.admitted >= MAX_EVENTS {
            self.left_out += 1;
            return None;
        }
        self.admitted += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(name: &str) -> Kind<'_> {
        ["egress", "refused", name]
    }

    #[test]
    fn a_flood_of_events_is_counted_and_not_written() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        let admitted = (0..100).filter_map(|_| throttle.admit(kind("a"), start)).collect::<Vec<_>>();
        assert_eq!(admitted, vec![0; MAX_EVENTS as usize]);
        assert_eq!(throttle.admit(kind("a"), start + WINDOW), Some(80));
        assert_eq!(throttle.admit(kind("a"), start + WINDOW), Some(0));
    }

    #[test]
    fn a_flood_of_one_kind_hides_no_other() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        while throttle.admit(kind("unknown"), start).is_some() {}
        assert_eq!(throttle.admit(kind("metadata"), start), Some(0));
        assert_eq!(throttle.admit(["egress", "recorded", "unknown"], start), Some(0));
    }

    #[test]
    fn many_kinds_are_held_to_a_bound_together() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        let names = (0..1000).map(|name: u32| name.to_string()).collect::<Vec<_>>();
        let admitted = |at| names.iter().filter(|name| throttle.admit(kind(name), at).is_some()).count();
        assert_eq!(admitted(start), MAX_KINDS + MAX_EVENTS as usize);
        assert_eq!(throttle.kinds.borrow().len(), MAX_KINDS);
        assert_eq!(throttle.admit(kind("late"), start + WINDOW), Some(0), "what is over is forgotten");
    }
}
