//! Pairwise sums: an order of additions that does not depend on the division of a batch among ranks.
//!
//! Values are added as the leaves of a binary tree: `(a + b) + (c + d)`. One process that adds four micro-batches, two
//! ranks with two each, and four ranks with one each therefore make the same additions, and get the same bits. In
//! general, the sums agree to the last bit if the number of ranks and of micro-batches per rank are powers of two and
//! all micro-batches are of equal size.

/// A pairwise sum over values that arrive one after the other. Holds one partial sum per set binary digit of their
/// number.
#[derive(Clone, Debug)]
pub struct Pairwise<T> {
    /// Partial sums with the number of values in each, descending powers of two.
    partial: Vec<(usize, T)>,
}

impl<T> Default for Pairwise<T> {
    fn default() -> Self {
        Self { partial: vec![] }
    }
}

impl<T> Pairwise<T> {
    /// Adds the next value; `add` receives the earlier operand first.
    pub fn push(&mut self, value: T, mut add: impl FnMut(T, T) -> T) {
        let (mut count, mut sum) = (1, value);
        while let Some((_, earlier)) = self.partial.pop_if(|(earlier, _)| *earlier == count) {
            sum = add(earlier, sum);
            count *= 2;
        }
        self.partial.push((count, sum));
    }

    /// Returns the partial sums to which a last value would be added, in the order of the additions: pushing the value
    /// and finishing would add each of them, as the earlier operand, to the sum so far.
    pub fn into_partial(self) -> impl Iterator<Item = T> {
        self.partial.into_iter().rev().map(|(_, sum)| sum)
    }

    /// Returns the sum; `None` without values.
    pub fn finish(mut self, mut add: impl FnMut(T, T) -> T) -> Option<T> {
        let (_, mut sum) = self.partial.pop()?;
        while let Some((_, earlier)) = self.partial.pop() {
            sum = add(earlier, sum);
        }
        Some(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(values: impl IntoIterator<Item = String>) -> Option<String> {
        let add = |a: String, b: String| format!("({a}+{b})");
        let mut sum = Pairwise::default();
        values.into_iter().for_each(|value| sum.push(value, add));
        sum.finish(add)
    }

    fn leaves(range: std::ops::Range<usize>) -> impl Iterator<Item = String> {
        range.map(|leaf| leaf.to_string())
    }

    #[test]
    fn values_are_added_in_pairs() {
        let check = |count, expected: Option<&str>| assert_eq!(tree(leaves(0..count)).as_deref(), expected);
        check(0, None);
        check(1, Some("0"));
        check(3, Some("((0+1)+2)"));
        check(4, Some("((0+1)+(2+3))"));
        check(6, Some("(((0+1)+(2+3))+(4+5))"));
    }

    #[test]
    fn last_value_is_added_to_the_partial_sums_in_the_same_order() {
        let add = |a: String, b: String| format!("({a}+{b})");
        for count in 1..20 {
            let mut others = Pairwise::default();
            leaves(0..count - 1).for_each(|value| others.push(value, add));
            let sum = others.into_partial().fold((count - 1).to_string(), |sum, earlier| add(earlier, sum));
            assert_eq!(Some(sum), tree(leaves(0..count)));
        }
    }

    #[test]
    fn ranks_add_in_the_same_order_as_one_process() {
        for ranks in [1_usize, 2, 4, 8] {
            let own = |rank: usize| tree(leaves(rank * 8 / ranks..(rank + 1) * 8 / ranks)).unwrap();
            assert_eq!(tree((0..ranks).map(own)), tree(leaves(0..8)), "{ranks} ranks");
        }
    }
}
