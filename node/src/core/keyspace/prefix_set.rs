//! Sets of prefixes: which parts of the keyspace are known.

use std::collections::BTreeSet;

use super::{Position, Prefix};

/// A part of the keyspace, as the fewest prefixes that make it up.
///
/// # Invariants
/// - No member lies in another.
/// - No two members are the halves of one prefix: that is a member instead.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrefixSet {
    members: BTreeSet<Prefix>,
}

impl PrefixSet {
    /// Adds all of a prefix.
    pub fn insert(&mut self, prefix: Prefix) {
        if self.covers(&prefix) {
            return;
        }
        let inside: Vec<_> = self.inside(&prefix).collect();
        for member in inside {
            self.members.remove(&member);
        }
        let mut whole = prefix;
        while let (Some(parent), Some(sibling)) = (whole.parent(), whole.sibling())
            && self.members.remove(&sibling)
        {
            whole = parent;
        }
        self.members.insert(whole);
    }

    /// Whether all of a prefix is in the set.
    pub fn covers(&self, prefix: &Prefix) -> bool {
        // A member around it begins at or before it, and everything between the two would lie in that member.
        self.members.range(..=*prefix).next_back().is_some_and(|member| member.covers(prefix))
    }

    /// Whether a position is in the set.
    pub fn contains(&self, position: &Position) -> bool {
        self.covers(&Prefix::of(*position, super::POSITION_BITS))
    }

    /// The first part of `prefix` that is not in the set at all, as wide as it is; none if everything is.
    pub fn first_gap(&self, prefix: &Prefix) -> Option<Prefix> {
        if self.covers(prefix) {
            return None;
        }
        let mut gap = *prefix;
        while self.inside(&gap).next().is_some() {
            let [low, high] = gap.halves()?;
            // Not both are covered: they would be one member.
            gap = if self.covers(&low) { high } else { low };
        }
        Some(gap)
    }

    /// All parts of `prefix` that are not in the set, each as wide as it is, in order.
    pub fn gaps(&self, prefix: &Prefix) -> Vec<Prefix> {
        let mut rest = self.clone();
        let mut gaps = Vec::new();
        while let Some(gap) = rest.first_gap(prefix) {
            rest.insert(gap);
            gaps.push(gap);
        }
        gaps
    }

    fn inside(&self, prefix: &Prefix) -> impl Iterator<Item = Prefix> + use<'_> {
        let prefix = *prefix;
        self.members.range(prefix..).copied().take_while(move |member| prefix.covers(member))
    }
}

impl FromIterator<Prefix> for PrefixSet {
    fn from_iter<T: IntoIterator<Item = Prefix>>(prefixes: T) -> Self {
        let mut set = Self::default();
        prefixes.into_iter().for_each(|prefix| set.insert(prefix));
        set
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::prefix::tests::drawn;
    use super::*;

    fn set(bits: &[&str]) -> PrefixSet {
        bits.iter().map(|bits| drawn(bits)).collect()
    }

    fn shown(prefixes: impl IntoIterator<Item = Prefix>) -> Vec<String> {
        prefixes.into_iter().map(|prefix| prefix.to_string()).collect()
    }

    #[test]
    fn gaps_are_as_wide_as_they_are() {
        let cases: [(&[&str], &str, &[&str]); 7] = [
            (&[], "*", &["*"]),
            (&[], "01", &["01"]),
            (&["0000", "0010", "100"], "0", &["0001", "0011", "01"]),
            (&["0"], "*", &["1"]),
            (&["1"], "*", &["0"]),
            (&["0"], "0101", &[]),
            (&["00", "01", "1"], "*", &[]),
        ];
        for (members, prefix, gaps) in cases {
            assert_eq!(shown(set(members).gaps(&drawn(prefix))), gaps, "{members:?} in {prefix}");
        }
    }

    #[test]
    fn halves_become_one_and_what_lies_inside_goes() {
        assert_eq!(shown(set(&["000", "011", "001", "010"]).members), ["0"]);
        assert_eq!(shown(set(&["0101", "0111", "01"]).members), ["01"]);
        assert_eq!(shown(set(&["01", "0111"]).members), ["01"]);
    }

    proptest! {
        #[test]
        fn a_set_knows_the_positions_that_its_prefixes_hold(
            members in prop::collection::vec((any::<u8>(), 0_u16..=8), 0..20),
            within in (any::<u8>(), 0_u16..=8),
        ) {
            let prefix = |(byte, len): (u8, u16)| {
                let mut position = Position::FIRST;
                position.0[0] = byte;
                Prefix::of(position, len)
            };
            let members: Vec<_> = members.into_iter().map(prefix).collect();
            let within = prefix(within);
            let set: PrefixSet = members.iter().copied().collect();
            let gaps = set.gaps(&within);
            for byte in 0..=u8::MAX {
                let mut position = Position::FIRST;
                position.0[0] = byte;
                let held = members.iter().any(|member| member.contains(&position));
                prop_assert_eq!(set.contains(&position), held);
                let gap = within.contains(&position) && !held;
                prop_assert_eq!(gaps.iter().filter(|gap| gap.contains(&position)).count(), usize::from(gap));
            }
            prop_assert_eq!(set.covers(&within), gaps.is_empty());
            for member in &set.members {
                prop_assert!(!set.members.iter().any(|other| other != member && other.covers(member)));
                prop_assert!(member.sibling().is_none_or(|sibling| !set.members.contains(&sibling)));
            }
        }
    }
}
