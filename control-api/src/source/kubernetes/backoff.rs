//! How long to wait before the next try: longer each time, and never the same for everybody.

use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};

/// Waits that double up to a longest one, each shortened at random by up to a half.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// The next wait.
    pub(super) fn next(&mut self) -> Duration {
        let mut byte = [0];
        // Without randomness the wait is the whole one.
        let random = SystemRandom::new().fill(&mut byte).map_or(0, |()| u32::from(byte[0]));
        let wait = self.next;
        self.next = (wait * 2).min(self.longest);
        wait - wait * random / 512
    }

    /// What was tried has worked.
    pub(super) const fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_longest_one_and_begin_anew() {
        let (first, longest) = (Duration::from_millis(100), Duration::from_millis(450));
        let mut backoff = Backoff::new(first, longest);
        for most in [100, 200, 400, 450, 450].map(Duration::from_millis) {
            let wait = backoff.next();
            assert!(wait <= most && wait >= most / 2, "{wait:?} of {most:?}");
        }
        backoff.reset();
        assert!(backoff.next() <= first);
    }
}
