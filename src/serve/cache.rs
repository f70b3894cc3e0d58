//! Scores that are known already. A score is a function of base, adapter and token ids, so it never grows old.

use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;

/// An adapter by its content, so that one that was dropped and loaded again finds its scores.
pub(super) type Identity = [u8; 16];

/// Scores of one base, in bounded memory.
pub(super) struct ScoreCache(Option<Cache<Key, f32, Bytes>>);

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    adapter: Identity,
    tokens: Arc<[u32]>,
}

#[derive(Clone)]
struct Bytes;

impl Weighter<Key, f32> for Bytes {
    fn weight(&self, key: &Key, _: &f32) -> u64 {
        // The ids with the counts of their references, the key, the score, and their places in the tables.
        (size_of_val(&*key.tokens) + size_of::<Key>() + 64) as u64
    }
}

impl ScoreCache {
    /// Room for `bytes`; for 0 nothing is kept.
    pub fn new(bytes: usize) -> ScoreCache {
        const TYPICAL_ENTRY: usize = 200;
        ScoreCache((bytes > 0).then(|| Cache::with_weighter(bytes / TYPICAL_ENTRY + 1, bytes as u64, Bytes)))
    }

    pub fn get(&self, adapter: Identity, tokens: &Arc<[u32]>) -> Option<f32> {
        self.0.as_ref()?.get(&Key { adapter, tokens: tokens.clone() })
    }

    pub fn insert(&self, adapter: Identity, tokens: Arc<[u32]>, score: f32) {
        if let Some(cache) = &self.0 {
            cache.insert(Key { adapter, tokens }, score);
        }
    }

    /// The bytes in use, by our own account.
    pub fn bytes(&self) -> u64 {
        self.0.as_ref().map_or(0, Cache::weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_kept_by_adapter_within_the_memory() {
        let cache = ScoreCache::new(100_000);
        let tokens = |i: u32| Arc::<[u32]>::from([2, i, 3]);
        cache.insert([1; 16], tokens(7), 0.5);
        assert_eq!(cache.get([1; 16], &tokens(7)), Some(0.5));
        assert_eq!(cache.get([2; 16], &tokens(7)), None);
        assert_eq!(cache.get([1; 16], &tokens(8)), None);
        (0..10_000).for_each(|i| cache.insert([3; 16], tokens(i), i as f32));
        let kept = (0..10_000).filter(|&i| cache.get([3; 16], &tokens(i)) == Some(i as f32)).count();
        assert!(cache.bytes() <= 100_000 && (100..2000).contains(&kept), "{} bytes, {kept}", cache.bytes());
        let none = ScoreCache::new(0);
        none.insert([1; 16], tokens(7), 0.5);
        assert_eq!((none.get([1; 16], &tokens(7)), none.bytes()), (None, 0));
    }
}
