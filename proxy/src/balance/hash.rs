//! Tables that give the same endpoint to the same hash, and change little when an endpoint comes or goes.
//!
//! Both are made as Envoy makes them, so that with the same endpoints both choose the same one.

use twox_hash::XxHash64;

/// A ring (Ketama): the endpoint at the first point at or after the hash.
#[derive(Debug)]
pub(super) struct Ring {
    points: Box<[u64]>,
    owners: Box<[u32]>,
}

/// A table in which every endpoint has its share of places (Maglev, NSDI 2016).
#[derive(Debug)]
pub(super) struct Maglev(Box<[u32]>);

impl Ring {
    /// A ring of the endpoints with these names and shares, which add up to 1.
    #[must_use]
    pub(super) fn new(members: &[(String, f64)], min: u64, max: u64) -> Self {
        let least = members.iter().map(|(_, share)| *share).filter(|share| *share > 0.0).fold(1.0, f64::min);
        #[expect(clippy::cast_precision_loss, reason = "sizes of rings are small")]
        let scale = ((least * min as f64).ceil() / least).min(max as f64);
        let mut points = Vec::new();
        let (mut made, mut wanted) = (0.0, 0.0);
        let mut key = String::new();
        for (index, (name, share)) in members.iter().enumerate() {
            let owner = u32::try_from(index).unwrap_or(u32::MAX);
            wanted += scale * share;
            let mut number = 0_u64;
            while made < wanted {
                key.clear();
                key.push_str(name);
                key.push('_');
                key.push_str(itoa::Buffer::new().format(number));
                points.push((XxHash64::oneshot(0, key.as_bytes()), owner));
                number += 1;
                made += 1.0;
            }
        }
        points.sort_unstable_by_key(|(point, _)| *point);
        let (points, owners): (Vec<u64>, Vec<u32>) = points.into_iter().unzip();
        Self { points: points.into(), owners: owners.into() }
    }

    /// Whose the hash is; a later attempt goes on to the next points.
    #[must_use]
    pub(super) fn owner(&self, hash: u64, attempt: u32) -> Option<usize> {
        let first = self.points.partition_point(|point| *point < hash);
        let place = (first + attempt as usize).checked_rem(self.points.len())?;
        self.owners.get(place).map(|owner| *owner as usize)
    }
}

/// An endpoint while the table is filled.
struct Filling {
    owner: u32,
    offset: u64,
    skip: u64,
    share: f64,
    due: f64,
    next: u64,
}

impl Maglev {
    /// A table of that many places, a prime number, for the endpoints with these names and shares.
    #[must_use]
    pub(super) fn new(members: &[(String, f64)], size: u64) -> Self {
        let mut filling: Vec<(&String, Filling)> = (0_u32..)
            .zip(members)
            .filter(|(_, (_, share))| *share > 0.0)
            .map(|(owner, (name, share))| {
                let offset = XxHash64::oneshot(0, name.as_bytes()) % size;
                let skip = XxHash64::oneshot(1, name.as_bytes()) % (size - 1).max(1) + 1;
                (name, Filling { owner, offset, skip, share: *share, due: 0.0, next: 0 })
            })
            .collect();
        if filling.is_empty() {
            return Self(Box::default());
        }
        // The order in which places are taken must not depend on the order of the configuration.
        filling.sort_unstable_by_key(|(name, _)| *name);
        let most = filling.iter().map(|(_, entry)| entry.share).fold(0.0, f64::max);
        let mut table = vec![u32::MAX; usize::try_from(size).unwrap_or(usize::MAX)];
        let (mut filled, mut turn) = (0, 0.0);
        while filled < table.len() {
            turn += 1.0;
            for (_, entry) in &mut filling {
                if turn * entry.share < entry.due || filled == table.len() {
                    continue;
                }
                entry.due += most;
                while let Some(place) = entry.place(size, &mut table) {
                    if *place == u32::MAX {
                        *place = entry.owner;
                        filled += 1;
                        break;
                    }
                }
            }
        }
        Self(table.into())
    }

    /// Whose the hash is; a later attempt has another hash.
    #[must_use]
    pub(super) fn owner(&self, hash: u64, attempt: u32) -> Option<usize> {
        let hash = if attempt == 0 { hash } else { hash ^ (u64::MAX - u64::from(attempt) + 1) };
        let place = hash.checked_rem(self.0.len() as u64)?;
        self.0.get(usize::try_from(place).ok()?).map(|owner| *owner as usize)
    }
}

impl Filling {
    /// The next place that it would like.
    fn place<'a>(&mut self, size: u64, table: &'a mut [u32]) -> Option<&'a mut u32> {
        let place = (self.offset + self.skip * self.next) % size;
        self.next += 1;
        table.get_mut(usize::try_from(place).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEYS: u64 = 20_000;

    fn members(numbers: impl Iterator<Item = usize>) -> Vec<(String, f64)> {
        let names: Vec<String> = numbers.map(|number| format!("10.0.0.{number}:80")).collect();
        let share = 1.0 / names.len() as f64;
        names.into_iter().map(|name| (name, share)).collect()
    }

    /// The part of all keys that change hands when one of a hundred leaves.
    fn moved(gone: usize, owner: impl Fn(&[(String, f64)]) -> Box<dyn Fn(u64) -> Option<usize>>) -> f64 {
        let all = members(0..100);
        let fewer = members((0..100).filter(|number| *number != gone));
        let (before, after) = (owner(&all), owner(&fewer));
        let moved = (0..KEYS).filter(|key| {
            let hash = XxHash64::oneshot(0, &key.to_le_bytes());
            all[before(hash).unwrap()].0 != fewer[after(hash).unwrap()].0
        });
        moved.count() as f64 / KEYS as f64
    }

    #[test]
    fn few_keys_move_when_one_of_a_hundred_leaves() {
        for gone in [0, 17, 50, 99] {
            let ring = moved(gone, |members| {
                let ring = Ring::new(members, 1024, 1 << 20);
                Box::new(move |hash| ring.owner(hash, 0))
            });
            assert!(ring > 0.0 && ring <= 0.02, "ring: {ring}");
            let maglev = moved(gone, |members| {
                let table = Maglev::new(members, 65_537);
                Box::new(move |hash| table.owner(hash, 0))
            });
            assert!(maglev > 0.0 && maglev <= 0.03, "maglev: {maglev}");
        }
    }

    #[test]
    fn a_large_ring_moves_what_its_new_points_take() {
        // Envoy's rule: with fewer endpoints each has more points, and those take keys as well.
        let moved = moved(42, |members| {
            let ring = Ring::new(members, 65_536, 1 << 20);
            Box::new(move |hash| ring.owner(hash, 0))
        });
        assert!(moved > 0.0 && moved <= 0.025, "{moved}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        #[test]
        fn shares_are_kept(weights in prop::collection::vec(1_u32..20, 1..12)) {
            let total: u32 = weights.iter().sum();
            let members: Vec<(String, f64)> = weights
                .iter()
                .enumerate()
                .map(|(number, weight)| (format!("10.0.0.{number}:80"), f64::from(*weight) / f64::from(total)))
                .collect();
            let table = Maglev::new(&members, 65_537);
            let ring = Ring::new(&members, 65_536, 1 << 20);
            for (index, (_, share)) in members.iter().enumerate() {
                let of_table = table.0.iter().filter(|owner| **owner as usize == index).count() as f64 / 65_537.0;
                prop_assert!((of_table - share).abs() < 0.01, "{of_table} {share}");
                let of_ring = ring.owners.iter().filter(|owner| **owner as usize == index).count() as f64;
                prop_assert!((of_ring / ring.owners.len() as f64 - share).abs() < 0.01, "{of_ring} {share}");
            }
            prop_assert!(table.0.iter().all(|owner| *owner != u32::MAX));
        }

        #[test]
        fn the_order_of_the_configuration_does_not_matter(turn in 1_usize..20, key: u64) {
            let all = members(0..20);
            let mut turned = all.clone();
            turned.rotate_left(turn);
            let (table, other) = (Maglev::new(&all, 997), Maglev::new(&turned, 997));
            prop_assert_eq!(&all[table.owner(key, 0).unwrap()].0, &turned[other.owner(key, 0).unwrap()].0);
            let (ring, other) = (Ring::new(&all, 1024, 4096), Ring::new(&turned, 1024, 4096));
            prop_assert_eq!(&all[ring.owner(key, 0).unwrap()].0, &turned[other.owner(key, 0).unwrap()].0);
        }
    }

    #[test]
    fn nobody_owns_anything_of_nothing() {
        assert_eq!(Ring::new(&[], 1024, 4096).owner(7, 0), None);
        assert_eq!(Maglev::new(&[], 997).owner(7, 0), None);
    }
}
