//! What blocks are known by.

use super::storing::Hole;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

/// What a block is known by: all tokens up to its end, and how they were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key([u8; 32]);

impl Key {
    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    // Of what follows from another one.
    fn after(&self, tokens: &[u32]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0);
        for token in tokens {
            hasher.update(&token.to_le_bytes());
        }
        Self(*hasher.finalize().as_bytes())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// How keys follow from tokens.
#[derive(Clone, Debug)]
pub(super) struct Scheme {
    seed: Key,
    /// Tokens of a block.
    block: usize,
    /// The first tokens, which every key follows from.
    first: usize,
}

impl Scheme {
    /// That of a model and its settings, as names and values, for blocks of so many tokens; every key follows from so many first ones.
    pub(super) fn new(identity: &[(String, String)], block: u32, first: u32) -> Self {
        let mut hasher = blake3::Hasher::new();
        for text in identity.iter().flat_map(|(name, value)| [name, value]) {
            // With its length, so that no two lists run into the same bytes.
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        let seed = Key(*hasher.finalize().as_bytes());
        Self { seed, block: block as usize, first: first as usize }
    }

    /// The tokens of a block.
    pub(super) fn tokens<'t>(&self, tokens: &'t [u32], block: usize) -> &'t [u32] {
        &tokens[block * self.block..][..self.block]
    }

    /// Tokens of so many blocks.
    pub(super) fn length(&self, blocks: usize) -> u32 {
        (blocks * self.block) as u32
    }
}

/// A block of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) key: Key,
    /// The key before it.
    pub(super) parent: Key,
    /// Its place.
    pub(super) block: u32,
}

/// The keys of a conversation's blocks from the first on, and how many of them are stored.
#[derive(Debug)]
pub(in crate::serve) struct Chain {
    /// What follows from the first tokens, once they are there, and then the keys.
    keys: Vec<Key>,
    /// The first blocks, which are in the directory or on their way there.
    pub(super) stored: usize,
    /// Of these, what could not be written.
    pub(super) hole: Arc<Hole>,
    /// When the conversation was begun with: the time of its files.
    pub(super) used: SystemTime,
}

impl Default for Chain {
    fn default() -> Self {
        Self { keys: Vec::new(), stored: 0, hole: Arc::default(), used: SystemTime::now() }
    }
}

impl Chain {
    /// Goes on to the last block that these tokens fill. They begin with those of before.
    pub(super) fn extend(&mut self, scheme: &Scheme, tokens: &[u32]) {
        if self.keys.is_empty() {
            let Some(first) = tokens.get(..scheme.first) else { return };
            self.keys.push(scheme.seed.after(first));
        }
        for tokens in tokens.chunks_exact(scheme.block).skip(self.blocks()) {
            self.keys.push(self.keys[self.keys.len() - 1].after(tokens));
        }
    }

    /// How many blocks have a key.
    pub(super) fn blocks(&self) -> usize {
        self.keys.len().saturating_sub(1)
    }

    /// One of them.
    pub(super) fn link(&self, block: usize) -> Link {
        Link { key: self.keys[block + 1], parent: self.keys[block], block: block as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scheme(first: u32) -> Scheme {
        Scheme::new(&[("the model".into(), "one".into())], 4, first)
    }

    fn keys(scheme: &Scheme, tokens: &[u32]) -> Vec<Key> {
        let mut chain = Chain::default();
        chain.extend(scheme, tokens);
        (0..chain.blocks()).map(|block| chain.link(block).key).collect()
    }

    #[test]
    fn a_key_follows_from_all_tokens_up_to_its_blocks_end() {
        let tokens: Vec<u32> = (0..22).collect();
        let all = keys(&scheme(0), &tokens);
        assert_eq!(all.len(), 5);
        for changed in 0..22 {
            let mut other = tokens.clone();
            other[changed] += 100;
            let other = keys(&scheme(0), &other);
            let alike = all.iter().zip(&other).take_while(|(a, b)| a == b).count();
            assert_eq!(alike, changed.min(20) / 4, "token {changed}");
            assert!(all[alike..].iter().zip(&other[alike..]).all(|(a, b)| a != b));
        }
        let other = Scheme::new(&[("the model".into(), "another".into())], 4, 0);
        assert!(keys(&other, &tokens).iter().all(|key| !all.contains(key)));
    }

    #[test]
    fn what_all_blocks_follow_from_is_in_the_first_key() {
        let tokens: Vec<u32> = (0..22).collect();
        let all = keys(&scheme(10), &tokens);
        let mut other = tokens.clone();
        other[9] = 100;
        assert_ne!(keys(&scheme(10), &other)[0], all[0]);
        other = tokens.clone();
        other[10] = 100;
        assert_eq!(keys(&scheme(10), &other)[..2], all[..2]);
        assert!(keys(&scheme(10), &tokens[..9]).is_empty());
    }

    #[test]
    fn a_chain_goes_on_as_if_it_had_been_made_at_once() {
        let tokens: Vec<u32> = (0..40).collect();
        for first in [0, 10] {
            let mut chain = Chain::default();
            for end in [3, 9, 10, 11, 25, 40] {
                chain.extend(&scheme(first), &tokens[..end]);
            }
            let links: Vec<Link> = (0..chain.blocks()).map(|block| chain.link(block)).collect();
            let made: Vec<Key> = links.iter().map(|link| link.key).collect();
            assert_eq!(made, keys(&scheme(first), &tokens));
            assert!(links.windows(2).all(|two| two[1].parent == two[0].key));
        }
    }

    #[test]
    fn names_and_values_do_not_run_together() {
        let one = [("ab".to_string(), "c".to_string())];
        let two = [("a".to_string(), "bc".to_string())];
        let tokens = [1, 2, 3, 4];
        assert_ne!(
            keys(&Scheme::new(&one, 4, 0), &tokens),
            keys(&Scheme::new(&two, 4, 0), &tokens)
        );
    }
}
