//! Who makes room in a list that everybody shares: the oldest of whoever has most. One that is noisy pushes out its own past, not
//! that of the others.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Ids, each on the shelf of what it is about, at most so many in all. Putting one costs the logarithm of their number.
#[derive(Clone, Debug)]
pub struct Shelves<K> {
    limit: usize,
    count: usize,
    /// Ascending ids.
    shelves: BTreeMap<Arc<K>, VecDeque<u64>>,
    /// The fullest last; of those that are equally full the one with the oldest id.
    by_size: BTreeSet<(usize, Reverse<u64>, Arc<K>)>,
}

impl<K: Ord + Clone> Shelves<K> {
    pub fn new(limit: usize) -> Self {
        Self { limit, count: 0, shelves: BTreeMap::new(), by_size: BTreeSet::new() }
    }

    /// Puts an id on its shelf, and gives the one that makes room for it: that may be itself. One that is there already stays.
    pub fn put(&mut self, id: u64, key: K) -> Option<u64> {
        let key = self.shelves.get_key_value(&key).map_or_else(|| Arc::new(key), |(known, _)| known.clone());
        let shelf = self.shelves.entry(key.clone()).or_insert_with(|| VecDeque::with_capacity(1));
        let before = shelf.front().copied();
        let Err(place) = shelf.binary_search(&id) else { return None };
        shelf.insert(place, id);
        if let Some(oldest) = before {
            self.by_size.remove(&(shelf.len() - 1, Reverse(oldest), key.clone()));
        }
        self.by_size.insert((shelf.len(), Reverse(before.map_or(id, |oldest| oldest.min(id))), key));
        self.count += 1;
        if self.count > self.limit { self.make_room() } else { None }
    }

    fn make_room(&mut self) -> Option<u64> {
        let (_, Reverse(oldest), key) = self.by_size.pop_last()?;
        let shelf = self.shelves.get_mut(&key)?;
        shelf.pop_front();
        self.count -= 1;
        match shelf.front() {
            Some(first) => drop(self.by_size.insert((shelf.len(), Reverse(*first), key))),
            None => drop(self.shelves.remove(&key)),
        }
        Some(oldest)
    }

    /// The ids on a shelf, ascending.
    pub fn of(&self, key: &K) -> impl DoubleEndedIterator<Item = u64> {
        self.shelves.get(key).into_iter().flatten().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left<K: Ord + Clone>(shelves: &Shelves<K>, keys: &[K]) -> Vec<Vec<u64>> {
        keys.iter().map(|key| shelves.of(key).collect()).collect()
    }

    #[test]
    fn whoever_has_most_makes_room_and_a_newcomer_gets_it() {
        let mut shelves = Shelves::new(6);
        assert!((1..=2).all(|id| shelves.put(id, "quiet").is_none()));
        assert!((3..=6).all(|id| shelves.put(id, "noisy").is_none()));
        assert_eq!(Vec::from_iter((7..100).filter_map(|id| shelves.put(id, "noisy"))), Vec::from_iter(3..96));
        assert_eq!(left(&shelves, &["quiet", "noisy"]), [vec![1, 2], vec![96, 97, 98, 99]]);
        assert_eq!(shelves.put(100, "new"), Some(96));
        assert_eq!(left(&shelves, &["quiet", "noisy", "new"]), [vec![1, 2], vec![97, 98, 99], vec![100]]);
        assert_eq!(shelves.put(98, "noisy"), None, "it is there");
        assert_eq!(shelves.put(50, "noisy"), Some(50), "it had made room before");
    }

    #[test]
    fn of_those_that_have_as_many_the_oldest_makes_room_and_an_empty_shelf_is_taken_away() {
        let mut shelves = Shelves::new(3);
        let gone: Vec<u64> = (0..1000).filter_map(|id| shelves.put(id, id)).collect();
        assert_eq!(gone, Vec::from_iter(0..997));
        assert_eq!((shelves.shelves.len(), shelves.by_size.len(), shelves.count), (3, 3, 3));
    }

    #[test]
    fn it_holds_as_many_as_it_may_whatever_comes() {
        let mut rng = crate::base::Rng::new(7);
        let mut shelves = Shelves::new(50);
        let mut held = BTreeSet::new();
        for id in 0..5000 {
            held.insert(id);
            if let Some(gone) = shelves.put(id, rng.below(1 + id % 70)) {
                assert!(held.remove(&gone), "{gone} was there");
            }
            let most = shelves.shelves.values().map(VecDeque::len).max().unwrap_or(0);
            assert_eq!(shelves.by_size.last().map(|(size, ..)| *size), Some(most));
        }
        let all: BTreeSet<u64> = shelves.shelves.values().flatten().copied().collect();
        assert_eq!((all.len(), all), (50, held));
    }
}
