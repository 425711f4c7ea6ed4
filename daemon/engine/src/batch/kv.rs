//! Which tokens are in the KV cache, and how many cells they take. Pure bookkeeping beside llama.cpp's
//! own: the two agree after every step.
//!
//! A cell holds the keys and values of one token at one position. In a unified cache several sequences
//! may share a cell, so that a common prefix is stored once.

use std::collections::HashMap;

use crate::llama::{SeqId, Token};

/// A place for one sequence.
#[derive(Clone, Debug, Default)]
struct Sequence {
    tokens: Vec<Token>,
    /// The cell of each token.
    cells: Vec<u32>,
}

/// The cache's books.
#[derive(Clone, Debug)]
pub struct KvBook {
    sequences: Vec<Sequence>,
    /// How many sequences share each cell.
    shares: Vec<u16>,
    free: Vec<u32>,
}

/// The cache has no free cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoCell;

impl KvBook {
    /// An empty cache of `cells` cells for `sequences` sequences.
    pub fn new(sequences: usize, cells: u32) -> Self {
        Self {
            sequences: vec![Sequence::default(); sequences],
            shares: vec![0; cells as usize],
            free: (0..cells).rev().collect(),
        }
    }

    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.sequences.len()
    }

    /// Cells in all.
    pub fn capacity(&self) -> usize {
        self.shares.len()
    }

    /// Cells that hold nothing.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Cells that hold a token of some sequence.
    pub fn used(&self) -> usize {
        self.capacity() - self.free()
    }

    /// The tokens of a sequence.
    pub fn tokens(&self, seq: SeqId) -> &[Token] {
        self.index(seq).map_or(&[], |at| &self.sequences[at].tokens)
    }

    /// Cells that would be free if all of `whole` were dropped, and the tokens of `cut`'s sequence from its
    /// position on.
    pub fn freed_by_dropping(&self, whole: &[SeqId], cut: Option<(SeqId, usize)>) -> usize {
        let mut dropped: HashMap<u32, u16> = HashMap::new();
        let ends = whole.iter().map(|&seq| (seq, 0)).chain(cut);
        for (seq, from) in ends {
            let cells = self.index(seq).map_or(&[][..], |at| &self.sequences[at].cells);
            for &cell in cells.iter().skip(from) {
                *dropped.entry(cell).or_default() += 1;
            }
        }
        dropped.into_iter().filter(|&(cell, count)| self.shares[cell as usize] == count).count()
    }

    /// Appends tokens to a sequence.
    ///
    /// # Errors
    /// [`NoCell`]; nothing is changed then.
    pub fn append(&mut self, seq: SeqId, tokens: &[Token]) -> Result<(), NoCell> {
        let at = self.index(seq).ok_or(NoCell)?;
        if self.free.len() < tokens.len() {
            return Err(NoCell);
        }
        let cells = self.free.split_off(self.free.len() - tokens.len());
        for &cell in &cells {
            self.shares[cell as usize] = 1;
        }
        self.sequences[at].tokens.extend_from_slice(tokens);
        self.sequences[at].cells.extend(cells);
        Ok(())
    }

    /// Forgets the tokens of a sequence from position `from` on.
    pub fn cut(&mut self, seq: SeqId, from: usize) {
        let Some(at) = self.index(seq) else { return };
        let sequence = &mut self.sequences[at];
        sequence.tokens.truncate(from);
        let cut = sequence.cells.split_off(from.min(sequence.cells.len()));
        for cell in cut {
            let shares = &mut self.shares[cell as usize];
            *shares -= 1;
            if *shares == 0 {
                self.free.push(cell);
            }
        }
    }

    /// Lets the empty sequence `to` share the first `length` tokens of `from`.
    pub fn share(&mut self, from: SeqId, to: SeqId, length: usize) {
        let (Some(source), Some(target)) = (self.index(from), self.index(to)) else { return };
        self.cut(to, 0);
        let tokens = self.sequences[source].tokens.iter().take(length).copied().collect();
        let cells: Vec<u32> = self.sequences[source].cells.iter().take(length).copied().collect();
        for &cell in &cells {
            self.shares[cell as usize] += 1;
        }
        self.sequences[target] = Sequence { tokens, cells };
    }

    /// Changes the number of cells; what is in the cache stays.
    ///
    /// # Errors
    /// [`NoCell`] if more cells are in use; nothing is changed then.
    pub fn resize(&mut self, cells: u32) -> Result<(), NoCell> {
        if self.used() > cells as usize {
            return Err(NoCell);
        }
        // Cells in use move to the front, in their order.
        let mut moved = vec![0; self.shares.len()];
        let mut used = 0;
        for (cell, _) in self.shares.iter().enumerate().filter(|&(_, &shares)| shares > 0) {
            moved[cell] = used;
            used += 1;
        }
        for cell in self.sequences.iter_mut().flat_map(|sequence| &mut sequence.cells) {
            *cell = moved[*cell as usize];
        }
        self.shares.retain(|&shares| shares > 0);
        self.shares.resize(cells as usize, 0);
        self.free = (used..cells).rev().collect();
        Ok(())
    }

    fn index(&self, seq: SeqId) -> Option<usize> {
        usize::try_from(seq).ok().filter(|&at| at < self.sequences.len())
    }
}

/// Length of the longest common prefix.
pub fn common_prefix(a: &[Token], b: &[Token]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Act {
        Append(SeqId, usize),
        Cut(SeqId, usize),
        Share(SeqId, SeqId, usize),
        Resize(u32),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            (0..4, 1..9usize).prop_map(|(seq, n)| Act::Append(seq, n)),
            (0..4, 0..20usize).prop_map(|(seq, from)| Act::Cut(seq, from)),
            (0..4, 0..4, 0..20usize).prop_map(|(from, to, n)| Act::Share(from, to, n)),
            (0..60u32).prop_map(Act::Resize),
        ]
    }

    proptest! {
        #[test]
        fn no_cell_is_lost_or_given_twice(acts in prop::collection::vec(act(), 1..80)) {
            let mut book = KvBook::new(4, 30);
            let mut cells = 30;
            for act in acts {
                let before: Vec<Vec<Token>> = (0..4).map(|seq| book.tokens(seq).to_vec()).collect();
                match act {
                    Act::Append(seq, n) => drop(book.append(seq, &vec![7; n])),
                    Act::Cut(seq, from) => book.cut(seq, from),
                    Act::Share(from, to, n) if from != to => book.share(from, to, n),
                    Act::Share(..) => {}
                    Act::Resize(wanted) => {
                        let used = book.used();
                        let resized = book.resize(wanted);
                        prop_assert_eq!(resized.is_ok(), used <= wanted as usize);
                        cells = if resized.is_ok() { wanted as usize } else { cells };
                        prop_assert_eq!(book.used(), used);
                        for (seq, tokens) in (0..4).zip(&before) {
                            prop_assert_eq!(book.tokens(seq), &tokens[..]);
                        }
                    }
                }
                prop_assert_eq!(book.capacity(), cells);
                let mut shares = vec![0u16; cells];
                for sequence in &book.sequences {
                    prop_assert_eq!(sequence.cells.len(), sequence.tokens.len());
                    for &cell in &sequence.cells {
                        shares[cell as usize] += 1;
                    }
                }
                prop_assert_eq!(&shares, &book.shares);
                let free = shares.iter().filter(|&&n| n == 0).count();
                prop_assert_eq!(free, book.free());
                // What is promised to become free does.
                let mut after = book.clone();
                let promised = after.freed_by_dropping(&[0, 2], Some((1, 3)));
                after.cut(0, 0);
                after.cut(2, 0);
                after.cut(1, 3);
                prop_assert_eq!(after.free(), book.free() + promised);
            }
        }
    }
}
